"""EMA update against a per-tensor loop over the state dict: `python benchmarks/ema.py [--device cuda] [--threads 2]`.

The loop is the textbook one: for every pair of tensors, ema.copy_(decay * ema + (1 - decay) * value). Both run in
turns in one process; the medians and their ratio are printed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import timm
import torch

from mltrain.optim import ModelEma


def textbook(ema: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    with torch.no_grad():
        for ema_v, model_v in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
            ema_v.copy_(decay * ema_v + (1.0 - decay) * model_v)


def timed(function: Callable[[], None], calls: int, device: str) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument(
        "--models", nargs="+", default=["test_resnet", "mobilenetv3_small_050", "mobilenetv2_100", "resnet50"]
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{'model':24}{'tensors':>8}{'MB':>8}{'loop ms':>10}{'ours ms':>10}{'ratio':>8}")
    for name in args.models:
        model = timm.create_model(name, num_classes=80).to(args.device)
        shadow = copy.deepcopy(model)
        ema = ModelEma(model, warmup=False)
        size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
        calls = max(1, int(5e6 // size))
        runs: dict[str, list[float]] = {"loop": [], "ours": []}
        for _ in range(args.rounds):
            runs["loop"].append(timed(lambda a=shadow, b=model: textbook(a, b, 0.9997), calls, args.device))
            runs["ours"].append(timed(ema.update, calls, args.device))
        loop, ours = (statistics.median(runs[key]) * 1e3 for key in ("loop", "ours"))
        tensors = len(model.state_dict())
        print(f"{name:24}{tensors:8}{size / 1e6:8.1f}{loop:10.3f}{ours:10.3f}{loop / ours:8.1f}")


if __name__ == "__main__":
    main()
