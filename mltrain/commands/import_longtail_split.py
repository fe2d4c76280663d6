"""Import the published training set of VOC-MLT or COCO-MLT as a split folder.

    mltrain import_longtail_split FOLDER out=appendix/voc_mlt/published
    mltrain import_longtail_split FOLDER out=DIR root=/data/voc/VOCdevkit overwrite=true

FOLDER holds class_freq.pkl, class_split.pkl and img_id.txt (COCO: img_id.pkl). The pickles are read without unpickling:
one that holds more than plain data is refused. Every number in them is checked against the labels.

Train on it with dataset=voc_mlt dataset.split=DIR (or coco_mlt), or as on any csv: dataset=csv
dataset.file=DIR/labels.csv dataset.root=FOLDER_OF_THE_IMAGES dataset.val_fraction=0.1.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mltrain.cli import Command
from mltrain.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """Options of the command itself."""

    out: str | None = None
    """folder to write: image ids, labels.csv, counts, groups, co-occurrence and manifest; always needed"""
    root: str = ""
    """folder of the images, which has VOC2012/ or train2017/ in it; it is noted in the manifest"""
    overwrite: bool = False
    """replace the split in the folder"""


def import_longtail_split(arguments: Sequence[str], options: Options) -> None:
    """Read the published files of a folder and write them as a split folder.

    Raises:
        ConfigError: the arguments do not name exactly one folder, or `out` is missing.
        DataError: the files cannot be read or do not agree, or the split cannot be written.
    """
    from mltrain.datasets.mlt import PUBLISHED, read_official
    from mltrain.longtail.split import check_free, write_split

    if len(arguments) != 1 or options.out is None:
        raise ConfigError(
            "name one folder with the published files, and where the split goes: FOLDER out=DIR (--help); found "
            f"{' '.join(arguments) or 'nothing'}"
        )
    place = Path(options.out)
    check_free(place, overwrite=options.overwrite)
    official = read_official(arguments[0], root=options.root)
    manifest = {
        "source": {
            "title": official.benchmark.title,
            "images": official.benchmark.source,
            "published": PUBLISHED,
            "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in official.files},
        },
        "method": "imported",
    }
    write_split(place, train=official.labels, ids=official.ids, manifest=manifest, overwrite=options.overwrite)
    title = official.benchmark.title  # VOC-MLT or COCO-MLT
    name = title.lower().replace("-", "_")
    sys.stdout.write(f"{title} in {place}; train on it: dataset={name} dataset.split={place}\n")


COMMAND = Command(import_longtail_split, about=__doc__, takes="arguments", options=Options)
