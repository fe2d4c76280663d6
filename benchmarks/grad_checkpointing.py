"""Memory and time of a training step with and without gradient checkpointing.

    python benchmarks/grad_checkpointing.py [--models vit_base_patch16_224,resnet50] [--batch 16] [--device cpu]

Each case runs in a process of its own: forward, backward and AdamW step of a classifier of 80 classes with random
weights. Memory is the peak of the process (on a GPU: of torch's allocator) over weights, gradients and optimizer.
Seconds are CPU time of all threads, the least of the steps; on a GPU the time of the clock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from mltrain.losses import AsymmetricLoss
from mltrain.models import create_classifier
from mltrain.optim import adamw


class Peak:
    """The highest resident memory of this process while the block runs, read every 2 ms; MB."""

    def __enter__(self) -> Peak:
        self.mb, self._done = self.now(), False
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done = True
        self._thread.join()

    def _watch(self) -> None:
        while not self._done:
            self.mb = max(self.mb, self.now())
            time.sleep(0.002)

    @staticmethod
    def now() -> float:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096 / 1e6


def measure(name: str, checkpointing: bool, batch: int, steps: int, device: str) -> dict[str, float]:
    """Return seconds a step and MB over those of the weights, in this process."""
    torch.manual_seed(0)
    options = {"grad_checkpointing": checkpointing}
    model = create_classifier(name=name, num_classes=80, backbone_options=options).to(device).train()
    loss, optimizer = AsymmetricLoss(), adamw(model)
    side = model.backbone.image_size
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    targets = (torch.rand(batch, 80, device=device) < 0.03).to(torch.int8)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            logits = model(images)
        loss(logits, targets).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = (
        torch.cuda.memory_allocated() / 1e6
        if device == "cuda"
        else sum(
            t.numel() * t.element_size()
            for p in model.parameters()
            for t in (p, p.grad, *optimizer.state[p].values())
            if isinstance(t, torch.Tensor)
        )
        / 1e6
        + BASE
    )
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds = []
    with Peak() as peak:
        for _ in range(steps):
            start = clock()
            step()
            seconds.append(clock() - start)
    most = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else peak.mb
    return {"seconds": min(seconds), "mb": most - before}


BASE = Peak.now()  # of the imports
COLUMNS = ("model", "batch", "MB without", "MB with", "ratio", "s without", "s with", "ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="vit_base_patch16_224,resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        name, checkpointing = given.case.split(",")
        print(json.dumps(measure(name, checkpointing == "1", given.batch, given.steps, given.device)))
        return
    print(("{:<24}{:>6}" + 3 * "{:>12}" + 3 * "{:>11}").format(*COLUMNS))
    for name in given.models.split(","):
        options = ["--batch", str(given.batch), "--steps", str(given.steps), "--device", given.device]
        results = []
        for flag in "01":
            command = [sys.executable, __file__, "--case", f"{name},{flag}", *options]
            results.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        figures = []
        for key in ("mb", "seconds"):
            without, with_it = (result[key] for result in results)
            figures += [without, with_it, with_it / without]
        print(
            ("{:<24}{:>6}{:>12.0f}{:>12.0f}{:>12.2f}" + 3 * "{:>11.2f}").format(name, given.batch, *figures), flush=True
        )


if __name__ == "__main__":
    main()
