"""Import the published training set of VOC-MLT or COCO-MLT as a split folder.

    python tools/import_longtail_split.py FOLDER out=appendix/voc_mlt/published
    python tools/import_longtail_split.py FOLDER out=DIR root=/data/voc/VOCdevkit overwrite=true

FOLDER holds class_freq.pkl, class_split.pkl and img_id.txt (COCO: img_id.pkl). Its pickles are read without unpickling:
what asks for more than plain data is refused. Every number in them is checked against the labels.

    out=DIR           folder to write: image ids, labels.csv, counts, groups, co-occurrence, manifest
    root=DIR          folder of the images, noted in the manifest: that with VOC2012/, or with train2017/; default: none
    overwrite=true    replace the split in DIR

Train on it with dataset=voc_mlt dataset.split=DIR (or coco_mlt), or as on any csv: dataset=csv
dataset.file=DIR/labels.csv dataset.root=FOLDER_OF_THE_IMAGES dataset.val_fraction=0.1.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.console import exit_on_error  # noqa: E402
from mltrain.errors import ConfigError  # noqa: E402

ALLOWED = ("out", "root", "overwrite")


def main(words: list[str]) -> None:
    from mltrain.datasets.mlt import PUBLISHED, read_official
    from mltrain.longtail.split import check_free, write_split

    options = dict(word.split("=", 1) for word in words if "=" in word)
    folders = [word for word in words if "=" not in word]
    for key, value in options.items():
        if key not in ALLOWED or not value or (key == "overwrite" and value not in ("true", "false")):
            raise ConfigError(f"{key}={value}: allowed are out=DIR, root=DIR, overwrite=true or false (--help)")
    if len(folders) != 1 or "out" not in options:
        raise ConfigError(
            f"name one folder with the published files, and where the split goes: FOLDER out=DIR (--help); found "
            f"{' '.join(words) or 'nothing'}"
        )
    place, overwrite = Path(options["out"]), options.get("overwrite") == "true"
    check_free(place, overwrite=overwrite)
    official = read_official(folders[0], root=options.get("root", ""))
    manifest = {
        "source": {
            "title": official.benchmark.title,
            "images": official.benchmark.source,
            "published": PUBLISHED,
            "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in official.files},
        },
        "method": "imported",
    }
    write_split(place, train=official.labels, ids=official.ids, manifest=manifest, overwrite=overwrite)
    title = official.benchmark.title
    name = title.lower().replace("-", "_")
    sys.stdout.write(f"{title} in {place}; train on it: dataset={name} dataset.split={place}\n")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write((__doc__ or "").strip() + "\n")
        sys.exit(0)
    with exit_on_error():
        main(sys.argv[1:])
    sys.exit(0)
