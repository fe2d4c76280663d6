"""Measure how much resizing without antialias changes images: `python benchmarks/resizing.py FOLDER [--size 224]`.

Printed: the mean absolute difference in grey levels between antialiased bilinear resizing (ours by default, Pillow's)
and plain bilinear resizing (OpenCV's, and so mmcv's), averaged over all images below FOLDER, and its range.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mltrain.pipeline.augment import EvalResize
from mltrain.pipeline.decode import read_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    smooth, plain = (EvalResize(image_size=args.size, antialias=on) for on in (True, False))
    paths = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    images = [read_image(path) for path in paths]
    differences = np.array([(smooth(image).int() - plain(image).int()).abs().float().mean() for image in images])
    print(
        f"{len(images)} images at {args.size} px: {differences.mean():.1f} grey levels on average, "
        f"{differences.min():.1f} to {differences.max():.1f}"
    )


if __name__ == "__main__":
    main()
