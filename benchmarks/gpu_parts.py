"""Measurements of benchmarks/gpu.py; each part yields rows, and small sizes run on a CPU, too."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import timm
import torch

from benchmarks import asl
from benchmarks import ema as ema_benchmark
from benchmarks.one_step_behind import OneStepBehind
from mltrain.engine import distributed
from mltrain.engine.logging import MetricsLog, Sinks
from mltrain.engine.progress import Progress
from mltrain.engine.step import TrainStep
from mltrain.losses import AsymmetricLoss, BinaryCrossEntropy, PerLabelLoss
from mltrain.metrics import average_precision
from mltrain.models import create_classifier
from mltrain.optim import ModelEma, OneCycle, adamw
from mltrain.pipeline.batch import Batch

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
BYTES = 9
"""an entry of a loss: its fp32 logit and int8 target are read, its fp32 gradient is written"""


@dataclass(frozen=True)
class Sizes:
    """Sizes of what is measured."""

    losses: tuple[tuple[int, int], ...] = ((128, 80), (256, 1000), (1024, 9605))
    ap: tuple[tuple[int, int], ...] = ((41_000, 80), (25_000, 9605))
    ema: tuple[str, ...] = ("resnet50", "tresnet_l", "vit_base_patch16_224")
    classes: int = 80
    batch: int = 64
    rounds: int = 5
    seconds: float = 1.5
    """of a window of steps or calls that is timed"""
    compiled: bool = True
    run: tuple[str, ...] = ("model.name=tresnet_l", "model.image_size=448", "dataset.image_size=448")
    run_images: int = 2048
    tests: tuple[str, ...] = ("-n", "4", "tests")


TINY = Sizes(
    losses=((4, 6),),
    ap=((50, 4),),
    ema=("test_resnet",),
    classes=5,
    batch=4,
    rounds=1,
    seconds=0.0,
    compiled=False,
    run=("model.name=test_resnet", "model.image_size=32", "dataset.image_size=32", "runner.device=cpu"),
    run_images=64,
    tests=("-n", "0", "tests/test_seeding.py"),
)


@dataclass(frozen=True)
class Bench:
    """Settings of a measurement: device, sizes, and `keep`, a folder for logs."""

    device: str
    sizes: Sizes
    keep: Path

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        """Return the seconds of a call, over several that follow each other without a wait."""
        self.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        self.synchronize()
        return (time.perf_counter() - start) / calls

    def in_turns(self, contestants: dict[str, Callable[[], object]], *, share: float = 1.0) -> dict[str, float]:
        """Return median seconds of a call of each: all warm up, then take turns in windows of equal length."""
        calls = {}
        for name, call in contestants.items():
            self.seconds(call, 2)
            once = self.seconds(call, 2)
            calls[name] = int(min(max(share * self.sizes.seconds / max(once, 1e-9), 2), 1000))
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(self.sizes.rounds):
            for name, call in contestants.items():
                times[name].append(self.seconds(call, calls[name]))
        return {name: statistics.median(found) for name, found in times.items()}

    def peak(self, call: Callable[[], object]) -> float:
        """Return the GB that a call takes at once, beyond what is there; 0 on a CPU."""
        if not self.on_gpu:
            call()
            return 0.0
        self.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e9


def loss_kernels(bench: Bench) -> Iterator[Row]:
    """Time value and gradient of losses beside a copy of as many bytes."""
    for rows, classes in bench.sizes.losses:
        x = torch.randn(rows, classes, device=bench.device).requires_grad_()
        y = (torch.rand(rows, classes, device=bench.device) < 3 / classes).to(torch.int8)
        source = torch.empty(rows * classes * BYTES // 2, dtype=torch.uint8, device=bench.device)
        target = torch.empty_like(source)
        for name, make in (("asl", AsymmetricLoss), ("bce", BinaryCrossEntropy)):
            ours: dict[str, PerLabelLoss] = {"eager": make(reduction="sum").to(bench.device)}
            if bench.sizes.compiled:
                ours["compiled"] = make(reduction="sum").to(bench.device)
                ours["compiled"].compile()
            contestants: dict[str, Callable[[], object]] = {k: partial(asl.step, f, x, y) for k, f in ours.items()}
            if name == "asl":
                contestants["textbook"] = partial(asl.step, asl.textbook, x, y)
            contestants["copy"] = partial(target.copy_, source)
            times = bench.in_turns(contestants, share=0.1)
            row = {"row": f"{name} {rows} x {classes}", **{f"{k} us": 1e6 * s for k, s in times.items()}}
            yield row | {"copy GB/s": rows * classes * BYTES / times["copy"] / 1e9}


def ranking(bench: Bench) -> Iterator[Row]:
    """Time the average precision of tensors on the device beside the same on the CPU."""
    for images, classes in bench.sizes.ap:
        logits = torch.randn(images, classes, device=bench.device)
        targets = (torch.rand(images, classes, device=bench.device) < 0.03).to(torch.int8)
        on_cpu = logits.cpu(), targets.cpu()
        from_device, from_cpu = partial(average_precision, logits, targets), partial(average_precision, *on_cpu)
        yield {
            "row": f"{images:,} x {classes:,}",
            "GB more": bench.peak(from_device),
            "from the device s": bench.seconds(from_device, 1),
            "from the CPU s": bench.seconds(from_cpu, 1),
            "equal": torch.equal(from_device().nan_to_num(-1), from_cpu().nan_to_num(-1)),
        }


def moving_average(bench: Bench) -> Iterator[Row]:
    """Time an update of the average of weights beside the textbook loop."""
    for name in bench.sizes.ema:
        model = timm.create_model(name, num_classes=bench.sizes.classes).to(bench.device)
        ema, shadow = ModelEma(model), ModelEma(model).module
        times = bench.in_turns(
            {"loop": partial(ema_benchmark.textbook, shadow, model, 0.9997), "ours": ema.update}, share=0.1
        )
        size = sum(p.numel() * p.element_size() for p in model.state_dict().values())
        row = {"row": name, "tensors": len(model.state_dict()), "MB": size / 1e6}
        yield row | {f"{kind} ms": 1e3 * seconds for kind, seconds in times.items()}


def gpu_tests(bench: Bench) -> Iterator[Row]:
    """Run the tests that need a GPU; their output is in gpu-tests.log."""
    log, report = bench.keep / "gpu-tests.log", (bench.keep / "gpu-tests.xml").resolve()
    start = time.perf_counter()
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "--tb=short", f"--junitxml={report}", *bench.sizes.tests]
    with log.open("w", encoding="utf-8") as out:
        code = subprocess.run(words, cwd=ROOT, env=environment(), stdout=out, stderr=out, check=False).returncode
    yield {"row": "pytest -m gpu", **outcome(report), "exit code": code, "s": time.perf_counter() - start}


def outcome(report: Path) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped, of a report of pytest in the format of JUnit."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    tests, failures, errors, skipped = (int(suite.attrib[k]) for k in ("tests", "failures", "errors", "skipped"))
    return {"passed": tests - failures - errors - skipped, "failed": failures + errors, "skipped": skipped}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def whole_run(bench: Bench) -> Iterator[Row]:
    """Train by the command, from the cache of resized images, with augmentation, evaluation and logs."""
    with tempfile.TemporaryDirectory() as folder:
        images = bench.sizes.run_images
        words = ["train", "dataset=shapes", f"dataset.num_train={images}", f"dataset.num_val={images // 8}", "head=gap"]
        words += ["model=timm", *bench.sizes.run, f"runner.batch_size={bench.sizes.batch}", "runner.epochs=3"]
        words += ["data.cache=true", f"paths.data={folder}/data", f"paths.runs={folder}/runs", "logger.report=false"]
        words += [f"data.cache_dir={folder}/cache", "model.pretrained=false"]
        command = [sys.executable, "-m", "mltrain", *words]
        with (bench.keep / "gpu-run.log").open("w", encoding="utf-8") as log:
            subprocess.run(command, env=environment(), check=True, stdout=log, stderr=log)
        (file,) = Path(folder, "runs").glob("*/*/*/metrics.jsonl")
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rates = [(r["train/images_per_second"], r["train/data_wait"]) for r in lines if "train/data_wait" in r]
        speeds, waits = zip(*rates[len(rates) // 2 :], strict=True)  # the first half warms up
        row = {"row": " ".join(bench.sizes.run), "images/s": statistics.median(speeds)}
        yield row | {"waiting for data": statistics.median(waits)}


def stalls(call: Callable[[], object], on_gpu: bool) -> Counter[str]:
    """Return the lines of code at which the host waited for the device during a call, and how often."""
    if not on_gpu:
        call()
        return Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchronizing" in str(w.message)]
    return Counter(f"{Path(w.filename).name}:{w.lineno}" for w in waits)


class Loops:
    """A model with three loops around it: a bare one that never waits, ours, and ours one step behind."""

    def __init__(self, bench: Bench, name: str, image_size: int, batch: int, *, compiled: bool, folder: Path) -> None:
        torch.manual_seed(0)
        sizes, self._dist = bench.sizes, distributed.start(bench.device)
        device = self._dist.device
        model = create_classifier(name=name, num_classes=sizes.classes, image_size=image_size)
        model = model.to(device).to(memory_format=torch.channels_last).train()
        optimizer = adamw(model, lr=1e-5, fused=True)
        self.ours = TrainStep(
            model=model,
            loss=AsymmetricLoss().to(device),
            optimizer=optimizer,
            schedule=OneCycle(steps_per_epoch=100_000, epochs=1),
            ema=ModelEma(model),
            mix=None,
            dist=self._dist,
            seed=0,
            amp_dtype=torch.bfloat16 if bench.on_gpu else None,
            compile_model=compiled,
            compile_loss=compiled,
        )
        self.behind = OneStepBehind(self.ours)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        self._batches = [self._batch(bench, image_size, batch) for _ in range(3)]
        self._progress = Progress(mode="lines", line_seconds=1e9)
        self._sinks = Sinks([MetricsLog(folder / "metrics.jsonl")])
        self._sinks.resume(0)
        self._progress.start_epoch(0, 1, 100_000, 0, 100_000)
        self._step = 0

    def _batch(self, bench: Bench, side: int, count: int) -> Batch:
        images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        targets = (torch.rand(count, bench.sizes.classes) < 0.03).to(torch.int8)
        if bench.on_gpu:
            images, targets = images.pin_memory(), targets.pin_memory()
        return Batch(images, targets, torch.arange(count), [])

    def _next(self, *, settled: bool = True) -> Batch:
        if settled and self.behind.unread is not None:
            self.behind.finish()
        self._step += 1
        return self._batches[self._step % len(self._batches)]

    def bare_step(self) -> None:
        """Do what a plain loop does, without a look at the loss."""
        batch, ours, device = self._next(), self.ours, self._dist.device
        images, targets = batch.images.to(device, non_blocking=True), batch.targets.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=ours.amp_dtype, enabled=ours.amp_dtype is not None):
            logits = ours.forward_model(images)
        ours.loss(logits, targets).backward()
        ours.optimizer.step()
        ours.optimizer.zero_grad(set_to_none=True)
        self._schedule.step()
        assert ours.ema is not None
        ours.ema.update()

    def our_step(self) -> None:
        """Do what `Runner` does with a batch that is there."""
        batch = self._next()
        result = self.ours(self._step, [batch], None)
        self._progress.update(loss=result.loss, lr=1e-5, images=len(batch.targets), waited=0.0)
        if self._step % 10 == 0:
            scalars = {"train/loss": result.loss, "train/grad_norm": result.grad_norm}
            self._sinks.log(self._step, {**scalars, **self._progress.rates()})

    def step_behind(self) -> None:
        """Do the same, and read the figures of the step before."""
        batch = self._next(settled=False)
        loss, _ = self.behind(self._step, [batch]) or (0.0, 0.0)
        self._progress.update(loss=loss, lr=1e-5, images=len(batch.targets), waited=0.0)

    def close(self) -> None:
        for sink in self._sinks.sinks:
            sink.close(False)


def training(bench: Bench, name: str, image_size: int) -> Iterator[Row]:
    """Time a model's training steps, eager and compiled; the batch is halved until it fits."""
    for mode in ("eager", "compiled") if bench.sizes.compiled else ("eager",):
        batch = bench.sizes.batch
        while True:
            try:
                with tempfile.TemporaryDirectory() as folder:
                    row = _training(bench, name, image_size, batch, mode == "compiled", Path(folder))
                break
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
                batch //= 2
            torch.cuda.empty_cache()
        yield {"row": f"{name} {image_size} px {mode}", "batch": batch, **row}


def _training(bench: Bench, name: str, image_size: int, batch: int, compiled: bool, folder: Path) -> Row:
    bench.synchronize()
    before = torch.cuda.memory_allocated() if bench.on_gpu else 0
    loops = Loops(bench, name, image_size, batch, compiled=compiled, folder=folder)
    try:
        loops.our_step()
        gigabytes = bench.peak(loops.our_step)
        if bench.on_gpu:
            gigabytes = (torch.cuda.max_memory_allocated() - before) / 1e9
        found = stalls(loops.our_step, bench.on_gpu)
        times = bench.in_turns({"bare": loops.bare_step, "ours": loops.our_step, "behind": loops.step_behind})
    finally:
        loops.close()
    return {
        "bare images/s": batch / times["bare"],
        "ours images/s": batch / times["ours"],
        "ours / bare": times["bare"] / times["ours"],
        "one step behind images/s": batch / times["behind"],
        "the wait costs": times["ours"] / times["behind"] - 1,
        "GB": gigabytes,
        "stalls a step": sum(found.values()),
        "at": ", ".join(f"{place} x{count}" for place, count in found.items()),
    }


Measure = Callable[[Bench], Iterator[Row]]
PARTS: dict[str, tuple[Measure, float]] = {
    "tests": (gpu_tests, 200),
    "tresnet_l 448": (lambda bench: training(bench, *_model(bench, "tresnet_l", 448)), 150),
    "vit_base 224": (lambda bench: training(bench, *_model(bench, "vit_base_patch16_224", 224)), 100),
    "vit_base 448": (lambda bench: training(bench, *_model(bench, "vit_base_patch16_224", 448)), 110),
    "losses": (loss_kernels, 90),
    "average precision": (ranking, 60),
    "EMA": (moving_average, 40),
    "run": (whole_run, 90),
}
"""name, measurement, and the most seconds that it may take"""


def _model(bench: Bench, name: str, image_size: int) -> tuple[str, int]:
    """Replace a model by a tiny one of its kind for a try on a CPU."""
    if bench.sizes.batch >= 16:
        return name, image_size
    return ("test_vit", image_size // 7) if "vit" in name else ("test_resnet", 32)


def end_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
