"""Training images/s of fp32 against bf16 autocast on this CPU: whether `runner.amp=bf16` pays.

    python benchmarks/amp_cpu.py [--rounds 7]

Forward and backward of the whole classifier, rounds interleaved, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from mltrain.losses import AsymmetricLoss
from mltrain.models import create_classifier

CASES = (("test_byobnet", 64, 64, 0), ("mobilenetv2_100", 224, 16, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    loss_fn = AsymmetricLoss()
    for name, size, batch, frozen in CASES:
        options = {"freeze_stages": frozen}
        model = create_classifier(name=name, num_classes=100, image_size=size, backbone_options=options)
        model = model.to(memory_format=torch.channels_last).train()
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        images = images.contiguous(memory_format=torch.channels_last)
        targets = (torch.rand(batch, 100) < 0.03).to(torch.int8)
        times: dict[bool, list[float]] = {False: [], True: []}
        for round_ in range(rounds + 1):
            for amp in times:
                start = time.perf_counter()
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
                    logits = model(images)
                loss_fn(logits, targets).backward()
                model.zero_grad(set_to_none=True)
                if round_:  # the first is warm-up
                    times[amp].append(time.perf_counter() - start)
        fp32, bf16 = (batch / statistics.median(times[amp]) for amp in (False, True))
        print(
            f"{name} at {size} px, {frozen} stages frozen: fp32 {fp32:.0f} img/s, "
            f"bf16 {bf16:.0f} img/s, {bf16 / fp32:.2f}x"
        )


if __name__ == "__main__":
    main()
