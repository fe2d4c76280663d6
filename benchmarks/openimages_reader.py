"""Peak memory and time of the Open Images reader, on a generated file in the official format.

    python benchmarks/openimages_reader.py [--rows 10000000] [--images 1500000] [--shuffled] [--keep FOLDER]

The file has the columns, ids, lengths and 9,605 classes of the training labels (about 60 M rows, 9 M images), half of
the rows negative, a tenth of other classes. A second process reads it, so that its peak is the reader's own; what
Python, NumPy and the imports take is shown beside it. --shuffled: the rows of every 50,000 images are in no order, so
that hardly two in turn are of one image: the reader's worst case.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

CLASSES, OTHERS = 9605, 10000
READ = """
import resource, sys, time
from mltrain.datasets.openimages import read_openimages
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
base, start = peak(), time.perf_counter()
labels = read_openimages(sys.argv[1], classes=sys.argv[2])
seconds, cpu = time.perf_counter() - start, time.process_time()
print(labels)
print(f"{seconds:.1f} s, {cpu:.1f} s of CPU with the imports; peak {peak():.0f} MB, {base:.0f} MB before reading")
"""


def generate(folder: Path, rows: int, images: int, shuffled: bool) -> tuple[Path, Path]:
    """Labels and classes files."""
    random = np.random.default_rng(0)
    alphabet = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz_", dtype=np.uint8)
    mids = list(
        dict.fromkeys("/m/0" + bytes(alphabet[random.integers(0, 37, 5 + k % 2)]).decode() for k in range(21000))
    )
    mids = mids[: CLASSES + OTHERS]
    (folder / "classes.txt").write_text("\n".join(mids[:CLASSES]) + "\n")
    ids = np.sort(random.integers(0, 2**63, images, dtype=np.uint64) * np.uint64(2))
    sources = ("verification", "crowdsource-verification")
    path = folder / "labels.csv"
    left = rows
    with path.open("w") as out:
        out.write("ImageID,Source,LabelName,Confidence\n")
        for chunk in np.array_split(ids, max(1, images // 50000)):
            count = left if chunk[-1] == ids[-1] else round(rows * len(chunk) / images)
            left -= count
            at = random.integers(0, len(chunk), count)
            at = at if shuffled else np.sort(at)
            # Frequencies of classes fall as 1 / rank.
            rank = np.minimum(np.exp(random.random(count) * np.log(CLASSES)).astype(int), CLASSES) - 1
            which = np.where(random.random(count) < 0.1, CLASSES + random.integers(0, OTHERS, count), rank)
            source, confidence = random.integers(0, 2, count), (at + which) % 2
            out.writelines(
                f"{i:016x},{sources[s]},{mids[k]},{c}\n"
                for i, s, k, c in zip(
                    chunk[at].tolist(), source.tolist(), which.tolist(), confidence.tolist(), strict=True
                )
            )
    return path, folder / "classes.txt"


@contextlib.contextmanager
def place(keep: str | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        Path(keep).mkdir(parents=True, exist_ok=True)
        yield Path(keep)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--images", type=int, default=1_500_000)
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--keep", help="folder for the generated file, which then stays")
    args = parser.parse_args()
    with place(args.keep) as folder:
        start = time.perf_counter()
        labels, classes = generate(folder, args.rows, args.images, args.shuffled)
        print(f"{labels.stat().st_size / 2**20:.0f} MB generated in {time.perf_counter() - start:.0f} s", flush=True)
        subprocess.run(
            [sys.executable, "-c", READ, str(labels), str(classes)],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


if __name__ == "__main__":
    main()
