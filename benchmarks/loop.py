"""What the training loop costs per step above a bare PyTorch loop.

    python benchmarks/loop.py [--steps 200] [--rounds 15] [--threads 1]

Both train the same network, 60 small tensors that cost next to nothing themselves, on the same batch in memory with
the same loss, fused optimizer, one-cycle schedule, EMA and autocast; ours adds what a run needs: keyed random state,
weights of the reduction, gradient norm and finiteness checked before the step, agreement on stop signals, progress,
records. The input pipeline is left out on both sides.
Rounds are interleaved; the figure is the median over rounds of the difference per step, by the clock on the wall and in
CPU time, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from mltrain.engine import distributed
from mltrain.engine.logging import MetricsLog, Sinks
from mltrain.engine.progress import Progress
from mltrain.engine.step import TrainStep
from mltrain.losses import AsymmetricLoss
from mltrain.optim import ModelEma, OneCycle, adamw
from mltrain.pipeline.batch import Batch


class Scaled(nn.Sequential):
    """Layers on uint8 images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.float() / 255)


def parts(steps: int) -> dict:
    torch.manual_seed(0)
    hidden = [layer for _ in range(28) for layer in (nn.Linear(32, 32), nn.ReLU())]
    model = Scaled(nn.Flatten(), nn.Linear(3 * 8 * 8, 32), nn.ReLU(), *hidden, nn.Linear(32, 20)).train()
    return {
        "model": model,
        "loss": AsymmetricLoss(),
        "optimizer": adamw(model, lr=1e-3),
        "schedule": OneCycle(steps_per_epoch=steps, epochs=1),
        "ema": ModelEma(model),
    }


class Stopwatch:
    """Wall and CPU seconds since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def per(self, steps: int) -> tuple[float, float]:
        return (time.perf_counter() - self.wall) / steps, (time.process_time() - self.cpu) / steps


def bare(steps: int, batch: Batch, amp: bool) -> tuple[float, float]:
    """Seconds per step of the loop that people write."""
    p = parts(steps)
    model, loss_fn, optimizer, ema = p["model"], p["loss"], p["optimizer"], p["ema"]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps + 1, pct_start=0.2)
    watch = Stopwatch()
    for _ in range(steps):
        images, targets = batch.images.to("cpu", non_blocking=True), batch.targets.to("cpu", non_blocking=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            logits = model(images)
        loss = loss_fn(logits, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        ema.update()
        loss.item()
    return watch.per(steps)


def ours(steps: int, batch: Batch, amp: bool, folder: Path) -> tuple[float, float]:
    """Seconds per step of `Runner._train_epoch`'s body."""
    progress = Progress(mode="lines", line_seconds=1e9)
    sinks = Sinks([MetricsLog(folder / "metrics.jsonl")])
    with distributed.start("cpu") as dist, sinks:
        sinks.resume(0)
        train_step = TrainStep(
            **parts(steps), mix=None, dist=dist, seed=0, amp_dtype=torch.bfloat16 if amp else None, channels_last=True
        )
        progress.start_epoch(0, 1, steps, 0, steps)
        watch = Stopwatch()
        for step in range(steps):
            waited = time.perf_counter()
            group = [batch]
            waited = time.perf_counter() - waited
            result = train_step(step, group, None)
            lr = train_step.optimizer.param_groups[0]["lr"]
            progress.update(loss=result.loss, lr=lr, images=len(batch.targets), waited=waited)
            if step % 10 == 0:
                scalars = {"train/loss": result.loss, "train/lr": lr, "train/grad_norm": result.grad_norm}
                sinks.log(step, {**scalars, **progress.rates()})
        return watch.per(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (given.batch, 3, 8, 8), dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    targets = torch.randint(0, 2, (given.batch, 20), dtype=torch.int8)
    batch = Batch(images, targets, torch.arange(given.batch), [])
    with tempfile.TemporaryDirectory() as folder:
        for amp in (False, True):
            times: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
            for _ in range(given.rounds):
                times["bare"].append(bare(given.steps, batch, amp))
                times["ours"].append(ours(given.steps, batch, amp, Path(folder)))
            for k, clock in enumerate(("wall", "CPU")):
                pairs = [(1e6 * a[k], 1e6 * b[k]) for a, b in zip(times["bare"], times["ours"], strict=True)]
                bare_us, ours_us = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
                differences = sorted(b - a for a, b in pairs)
                name = f"{'bf16' if amp else 'fp32'} {clock:>4}"
                print(
                    f"{name}: bare {bare_us:.0f} us, ours {ours_us:.0f} us a step; overhead "
                    f"{statistics.median(differences):.0f} us (of {given.rounds} paired rounds {differences[0]:.0f} to "
                    f"{differences[-1]:.0f})"
                )


if __name__ == "__main__":
    main()
