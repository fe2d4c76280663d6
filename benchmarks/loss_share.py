"""Share of a training step that the loss takes: `python benchmarks/loss_share.py`.

Model and loss are timed one after the other in each round: the model's forward call and its backward call with a given
gradient of the logits, and the loss's forward and backward call on the same logits. Printed: a Markdown table of the
share of the loss, from medians, eager and with the loss compiled. The model is eager in both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch

from mltrain.losses import AsymmetricLoss

# The default of the config (configs/model/small.yaml), and two networks for photographs.
MODELS = {"small": ("test_byobnet", 64), "MobileNetV2": ("mobilenetv2_100", 224), "ResNet-50": ("resnet50", 224)}


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 1006, 9605])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled loss")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    losses = {"eager": AsymmetricLoss()}
    if not args.no_compile:
        losses["compiled"] = AsymmetricLoss()
        losses["compiled"].compile()
    print("| model | classes | step | " + " | ".join(f"loss, {kind}" for kind in losses) + " |")
    print("|---|---|---|" + "---|" * len(losses))
    for title in args.models:
        name, size = MODELS[title]
        for classes in args.classes:
            model = timm.create_model(name, num_classes=classes).train()
            images = torch.randn(args.batch, 3, size, size).contiguous(memory_format=torch.channels_last)
            targets = (torch.rand(args.batch, classes) < 3 / classes).to(torch.int8)
            upstream = torch.randn(args.batch, classes)
            logits = torch.randn(args.batch, classes).sub_(2).requires_grad_()

            def step(
                model: torch.nn.Module = model, images: torch.Tensor = images, up: torch.Tensor = upstream
            ) -> None:
                model(images).backward(up)

            calls = {
                kind: lambda loss=loss, x=logits, y=targets: loss(x, y).backward()  # type: ignore[misc]
                for kind, loss in losses.items()
            }
            for call in (step, *calls.values()):  # compilation, allocation
                call()
            times: dict[str, list[float]] = {key: [] for key in ("step", *calls)}
            for _ in range(args.rounds):
                times["step"].append(timed(step))
                for kind, call in calls.items():
                    call()  # what the model left in the caches is not of interest
                    times[kind].append(timed(call))
            medians = {key: statistics.median(values) for key, values in times.items()}
            shares = [f"{100 * medians[k] / (medians['step'] + medians[k]):.2f} %" for k in losses]
            print(f"| {title} | {classes} | {1e3 * medians['step']:.0f} ms | " + " | ".join(shares) + " |", flush=True)


if __name__ == "__main__":
    main()
