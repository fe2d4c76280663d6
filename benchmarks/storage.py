"""Images per second from files, tar, zip and Parquet: read, decoded, augmented and put into batches.

    python benchmarks/storage.py [--folder FOLDER_OF_JPEGS] [--size 224] [--workers 1] [--rounds 7]

The same JPEGs (photograph-like, 640 x 480, unless --folder is given) lie in a folder, a tar, a zip whose members are
stored, one whose members are deflated, and a Parquet file as Hugging Face writes it. The places take turns in each
round, in random order, each with fresh workers; images are read in random order, from the page cache. Figures are
medians over the rounds; a ratio is the median of the ratios within a round. CPU time is that of all processes.
`read` is the time to read one image without decoding it, in this process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from input import CLASSES, make_photographs, measure

from mltrain.labels import LabelSet
from mltrain.pipeline.augment import TrainAugment
from mltrain.pipeline.image_file import read_file
from mltrain.pipeline.loader import TrainLoader
from mltrain.pipeline.samplers import UniformSampler


def pack(folder: Path, out: Path, copies: int) -> dict[str, LabelSet]:
    """Put the images of a folder, each `copies` times, into every kind of place."""
    found = sorted(folder.glob("*.jpg"))
    images = [path.read_bytes() for _ in range(copies) for path in found]
    names = [f"{k % 100:02d}/{k:06d}.jpg" for k in range(len(images))]
    with (
        tarfile.open(out / "images.tar", "w") as tar,
        zipfile.ZipFile(out / "stored.zip", "w") as stored,
        zipfile.ZipFile(out / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for name, image in zip(names, images, strict=True):
            place = out / "files" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(image)
            tar.add(place, name)
            stored.writestr(name, image)
            deflated.writestr(name, image)
    column = pa.array([{"bytes": image, "path": None} for image in images])
    pq.write_table(pa.table({"image": column}), out / "images.parquet", compression="none", row_group_size=100)
    rows = [f"image/{k:08d}" for k in range(len(images))]
    places = {
        "files": (out / "files", names),
        "tar": (out / "images.tar", names),
        "zip, stored": (out / "stored.zip", names),
        "zip, deflated": (out / "deflated.zip", names),
        "Parquet": (out / "images.parquet", rows),
    }
    targets = np.random.default_rng(0).integers(0, 2, (len(images), CLASSES)).astype(np.int8)
    classes = [str(c) for c in range(CLASSES)]
    return {
        kind: LabelSet.from_dense(name=kind, root=root, files=files, class_names=classes, targets=targets)
        for kind, (root, files) in places.items()
    }


def read_seconds(labels: LabelSet) -> float:
    """Seconds to read an image, in random order."""
    paths = [labels.path(int(k)) for k in np.random.default_rng(0).permutation(len(labels))]
    start = time.perf_counter()
    for path in paths:
        read_file(path)
    return (time.perf_counter() - start) / len(paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="JPEG files to use instead of made ones")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=640, help="images in each place; files are repeated")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder
        if folder is None:
            folder = Path(scratch, "made")
            folder.mkdir()
            make_photographs(folder, 64)
        count = len(list(folder.glob("*.jpg")))
        places = pack(folder, Path(scratch), max(1, args.images // count))
        for labels in places.values():  # makes the indexes, and warms the page cache
            read_seconds(labels)
        run(places, args)


def run(places: dict[str, LabelSet], args: argparse.Namespace) -> None:
    taken: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    augment = TrainAugment(image_size=args.size, crop="random_resized")
    common = {"batch_size": args.batch_size, "num_workers": args.workers}
    for epoch in range(args.rounds):
        for kind in random.Random(epoch).sample(list(places), len(places)):
            loader = TrainLoader(places[kind], augment, UniformSampler(labels=places[kind], seed=0), **common)
            wall, cpu = measure(loader.epoch(epoch), args)
            loader.close()
            taken[kind].append((wall, cpu, read_seconds(places[kind])))
    print(f"{len(places['files'])} images, {args.size} px, {args.workers} workers, {args.rounds} rounds\n")
    print("| images in | images/s | against files | by CPU time | read, us |\n|---|---|---|---|---|")
    for kind in places:
        rounds = taken[kind]
        wall, _, read = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratios = [
            statistics.median(files[k] / own[k] for files, own in zip(taken["files"], rounds, strict=True))
            for k in range(2)
        ]
        print(f"| {kind} | {1 / wall:.0f} | {ratios[0]:.2f}x | {ratios[1]:.2f}x | {read * 1e6:.0f} |")


if __name__ == "__main__":
    main()
