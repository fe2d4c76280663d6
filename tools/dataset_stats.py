"""Count a data set: images, labels, groups, imbalance, co-occurrence. Reads annotation files only, opens no image.

    python tools/dataset_stats.py                                     the drawn shapes
    python tools/dataset_stats.py dataset=coco2017                    COCO under data/coco
    python tools/dataset_stats.py dataset=csv dataset.file=labels.csv json=stats.json
    python tools/dataset_stats.py dataset=voc2007 out=stats/voc2007   with plots

The tables go to standard output.
    out=DIR               also stats.json, stats.txt, classes.csv and plots of each split
    json=FILE             also all numbers as JSON
    head_min=100          head: classes with at least so many training images
    medium_min=20         medium: at least so many; tail: fewer
    top=10                co-occurring pairs, and classes at each end of the table

    --cfg job             print every option instead of running
    --config-dir DIR      look for data set configs in DIR too
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.config import dataset_tools  # noqa: E402

if __name__ == "__main__":
    dataset_tools.main(
        dataset_tools.dataset_stats, dataset_tools.DatasetStats, about=__doc__ or "", config_dir=ROOT / "configs"
    )
