"""Look at a data set before training: a page with its images before and after augmentation, labels, classes, counts.

    python tools/browse_dataset.py                                             the drawn shapes
    python tools/browse_dataset.py dataset=coco2017 augment=asl model.image_size=448
    python tools/browse_dataset.py dataset=csv dataset.file=labels.csv classes=[cat,dog] images=500
    python tools/browse_dataset.py +experiment=coco_mlt_db split=val out=val.html

Takes every key of tools/train.py, of which dataset, partial, augment, eval_resize, model.image_size, metrics.head_min
and seed have a part in it. The page is one file, which loads nothing: it can be mailed, and read on a phone.

    split=train           val and test are shown as evaluation resizes them
    images=200            how many are shown
    pick=classes          some of every class, the rarest first; random: any; first: the first ones
    classes=[a,b]         only images with one of these labels
    versions=2            augmented versions of an image
    side=192              longer side of a picture, pixels
    out=browse.html       the page

    --cfg job             print every option instead of running
    --config-dir DIR      look for configs in DIR too
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.config import browse, dataset_tools  # noqa: E402

if __name__ == "__main__":
    dataset_tools.main(browse.browse, browse.Browse, about=__doc__ or "", config_dir=ROOT / "configs", whole=True)
