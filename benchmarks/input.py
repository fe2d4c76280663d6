"""Images per second of the input pipeline, against a plain Dataset and DataLoader with the same number of workers.

    python benchmarks/input.py [--folder FOLDER_OF_JPEGS] [--size 448] [--workers 2]

The peer is written as most people write it: Pillow opens, converts and resizes, ToTensor makes float32, Normalize,
default_collate. Both sides read the same files (from the page cache) and take turns, each with fresh workers; timing
starts when the first batches are there and the figures are medians over the rounds. CPU time is that of this process
with its workers: it says what is left for training on the same machine, and does not suffer from a busy one.
Without --folder, photograph-like 640 x 480 JPEGs are made.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mltrain.labels import LabelSet
from mltrain.pipeline.augment import EvalResize, TrainAugment
from mltrain.pipeline.cache import cached_images
from mltrain.pipeline.loader import EvalLoader, TrainLoader
from mltrain.pipeline.samplers import UniformSampler

CLASSES = 80


def make_photographs(folder: Path, count: int) -> None:
    """JPEGs of coloured 1/f noise, hard edges and grain, of about as many bytes per pixel as COCO has."""
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        image = torch.full((1, 3, 480, 640), 0.5)
        for octave in range(1, 9):
            noise = torch.randn(1, 3, 2**octave, 2**octave, generator=generator)
            noise = 0.7 * noise.mean(1, keepdim=True) + 0.3 * noise
            image += F.interpolate(noise, (480, 640), mode="bicubic") * 0.45 / 2 ** (0.75 * octave)
        for _ in range(6):
            y, x = torch.randint(0, 400, (2,), generator=generator).tolist()
            image[..., y : y + 80, x : x + 120] += torch.randn(1, 3, 1, 1, generator=generator) * 0.15
        image += 0.05 * torch.randn(1, 1, 480, 640, generator=generator)  # grain
        pixels = (image[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i:04d}.jpg", quality=90)


class PlainDataset(Dataset):
    """The peer."""

    def __init__(self, paths: list[str], targets: np.ndarray, transform: Callable) -> None:
        self.paths, self.targets, self.transform = paths, targets, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(self.paths[index]).convert("RGB")
        return self.transform(image), torch.from_numpy(self.targets[index]).float()


def plain_loader(
    paths: list[str], targets: np.ndarray, steps: list, train: bool, args: argparse.Namespace
) -> DataLoader:
    normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    dataset = PlainDataset(paths, targets, transforms.Compose([*steps, transforms.ToTensor(), normalize]))
    return DataLoader(
        dataset,
        batch_size=args.batch_size,
        shuffle=train,
        drop_last=train,
        num_workers=args.workers,
    )


def cpu_seconds() -> float:
    """CPU time so far of this process and its living children (Linux)."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split()
    ticks = 0
    for pid in ["self", *children]:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(batches: Iterable, args: argparse.Namespace) -> tuple[float, float]:
    """Seconds and CPU seconds of an image, after the batches that the workers have ready at the start."""
    skipped, timed = 2 * args.workers, 0
    for k, batch in enumerate(batches):
        if k < skipped:
            start, cpu = time.perf_counter(), cpu_seconds()
        else:
            timed += len(batch[0])
            end, cpu_end = time.perf_counter(), cpu_seconds()
    return (end - start) / timed, (cpu_end - cpu) / timed


def compare(
    title: str, peer: DataLoader, make: Callable[[], TrainLoader | EvalLoader], args: argparse.Namespace
) -> None:
    taken = []
    for epoch in range(args.rounds):
        plain = measure(peer, args)
        loader = make()
        ours = measure(loader.epoch(epoch) if isinstance(loader, TrainLoader) else loader, args)
        loader.close()
        taken.append((*plain, *ours))
    wall, cpu, our_wall, our_cpu = (statistics.median(column) for column in zip(*taken, strict=True))
    print(
        f"{title:42s} plain {1 / wall:6.0f} img/s {cpu * 1e3:5.2f} CPU ms   mltrain {1 / our_wall:6.0f} img/s "
        f"{our_cpu * 1e3:5.2f} CPU ms   {wall / our_wall:5.2f} x ({cpu / our_cpu:.2f} x by CPU)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="JPEG files to use instead of made ones")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=512, help="images of an epoch; files are repeated")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder
        if folder is None:
            folder = Path(scratch)
            make_photographs(folder, 64)
        found = [str(path) for path in sorted(folder.resolve().glob("*.jpg"))]
        paths = [found[i % len(found)] for i in range(args.images // args.batch_size * args.batch_size)]
        mean_bytes = statistics.mean(Path(path).stat().st_size for path in found)
        print(f"{len(found)} files of {mean_bytes / 1e3:.0f} kB, {args.size} px, {args.workers} workers")
        run(paths, Path(scratch), args)


def run(paths: list[str], scratch: Path, args: argparse.Namespace) -> None:
    targets = np.random.default_rng(0).integers(0, 2, (len(paths), CLASSES)).astype(np.int8)
    labels = LabelSet.from_dense(
        name="bench", root="/", files=paths, class_names=[str(c) for c in range(CLASSES)], targets=targets
    )
    size = args.size
    common = {"batch_size": args.batch_size, "num_workers": args.workers}

    transform = EvalResize(image_size=size)
    squish = plain_loader(paths, targets, [transforms.Resize((size, size))], False, args)
    compare("evaluation, squish", squish, lambda: EvalLoader(labels, transform, **common), args)
    cached = cached_images(labels, transform, folder=scratch / "cache")
    compare("evaluation, from the cache", squish, lambda: EvalLoader(labels, transform, cache=cached, **common), args)

    sampler = UniformSampler(labels=labels)
    steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    crops = plain_loader(paths, targets, steps, True, args)
    crop = TrainAugment(image_size=size, crop="random_resized")
    compare("training, random resized crop, flip", crops, lambda: TrainLoader(labels, crop, sampler, **common), args)

    steps = [transforms.Resize((size, size)), transforms.RandomHorizontalFlip()]
    flips = plain_loader(paths, targets, steps, True, args)
    flip = TrainAugment(image_size=size, crop="squish")
    compare("training, squish, flip", flips, lambda: TrainLoader(labels, flip, sampler, **common), args)
    cached = cached_images(labels, flip.cache_resize(), folder=scratch / "cache")
    compare(
        "training, squish, flip, from the cache",
        flips,
        lambda: TrainLoader(labels, flip, sampler, cache=cached, **common),
        args,
    )


if __name__ == "__main__":
    main()
