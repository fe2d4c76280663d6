"""Images per second of Predictor.predict, against a loop that opens, resizes and classifies one image after the other.

    python benchmarks/predict.py [--name mobilenetv2_100] [--size 224] [--head gap] [--folder FOLDER_OF_JPEGS]
    python benchmarks/predict.py --device cuda

The peer is written as most people write it: Pillow opens and resizes, ToTensor and Normalize, the model in inference
mode on a batch of one in fp32, sigmoid, the classes above 0.5. Both sides have the same weights (random: the time is
the same), read the same files from the page cache, and take turns; figures are medians over the rounds. Starting the
workers counts. CPU time is that of the process with its workers: it suffers less from a busy machine; on two quiet
cores the loop leaves the second one mostly idle. Last, how far the probabilities of the two sides are apart: ours come
from another resize and, where the processor has it, bf16.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from input import make_photographs  # beside this file
from PIL import Image
from torchvision import transforms

from mltrain.engine.distributed import single_device
from mltrain.engine.precision import resolve_amp
from mltrain.models import create_classifier
from mltrain.models.classifier import Classifier
from mltrain.models.fold import folded
from mltrain.pipeline.augment import EvalResize
from mltrain.runs.predictor import Predictor

CLASSES = 80


def plain_scores(model: Classifier, files: list[str], size: int, device: torch.device) -> torch.Tensor:
    """(N, C), by the loop; what it would print is thrown away."""
    steps = [transforms.Resize((size, size)), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize(model.backbone.mean, model.backbone.std)])
    rows = []
    for file in files:
        image = transform(Image.open(file).convert("RGB"))[None].to(device)
        with torch.inference_mode():
            scores = model.classify(model.backbone(image)).sigmoid()[0].cpu()
        (scores > 0.5).nonzero()
        rows.append(scores)
    return torch.stack(rows)


def cpu_seconds() -> float:
    """CPU time so far of this process and of the workers that have ended."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="mobilenetv2_100", help="timm model")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--head", default="gap")
    parser.add_argument("--folder", type=Path, help="JPEG files to use instead of made ones of 640 x 480")
    parser.add_argument("--images", type=int, default=192, help="of a round; files are repeated")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, help="default: as the program chooses")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", default="auto", choices=["auto", "off", "bf16"])
    args = parser.parse_args()
    torch.manual_seed(0)
    device = single_device(args.device)
    plain = create_classifier(name=args.name, num_classes=CLASSES, head=args.head, image_size=args.size).eval()
    ours = Classifier(folded(plain.backbone, args.size), plain.head).eval()  # type: ignore[arg-type]
    predictor = Predictor(
        ours.to(device).to(memory_format=torch.channels_last),
        [str(c) for c in range(CLASSES)],
        EvalResize(image_size=args.size),
        topk=CLASSES,
        amp_dtype=resolve_amp(args.amp, device),
        batch_size=args.batch_size,
        num_workers=args.workers,
    )
    plain = plain.to(device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder
        if folder is None:
            folder = Path(scratch)
            make_photographs(folder, 32)
        found = [str(path) for path in sorted(folder.resolve().iterdir()) if path.suffix in (".jpg", ".jpeg")]
        files = [found[i % len(found)] for i in range(args.images)]
        plain_scores(plain, files[:4], args.size, device)
        list(predictor.predict(files[:4]))
        taken: list[tuple[float, ...]] = []
        for _ in range(args.rounds):
            begin, cpu_begin = time.perf_counter(), cpu_seconds()
            expected = plain_scores(plain, files, args.size, device)
            middle, cpu_middle = time.perf_counter(), cpu_seconds()
            predictions = list(predictor.predict(files))
            end, cpu_end = time.perf_counter(), cpu_seconds()
            taken.append((middle - begin, end - middle, cpu_middle - cpu_begin, cpu_end - cpu_middle))
        slow, fast, cpu_slow, cpu_fast = (statistics.median(column) / len(files) for column in zip(*taken, strict=True))
        ratios = sorted(row[0] / row[1] for row in taken)
        apart = max(
            abs(float(row[int(label.name)]) - label.score)
            for row, prediction in zip(expected, predictions, strict=True)
            for label in prediction.labels
        )
    print(
        f"{args.name} {args.head} {args.size} px, {device}, {torch.get_num_threads()} threads: "
        f"loop {1 / slow:.1f} img/s, predict {1 / fast:.1f} img/s, {slow / fast:.2f} x "
        f"(rounds {ratios[0]:.2f} to {ratios[-1]:.2f}); CPU {cpu_slow * 1e3:.1f} and {cpu_fast * 1e3:.1f} ms/img, "
        f"{cpu_slow / cpu_fast:.2f} x; probabilities at most {apart:.4f} apart"
    )


if __name__ == "__main__":
    main()
