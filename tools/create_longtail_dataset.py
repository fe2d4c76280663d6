"""Make a long-tailed subset of a multi-label data set: image ids, labels, counts, groups, co-occurrence, plots.

    python tools/create_longtail_dataset.py                                       of the drawn shapes, to look around
    python tools/create_longtail_dataset.py dataset=coco max=1200 b=6 shortage=clip
    python tools/create_longtail_dataset.py dataset=csv dataset.file=labels.csv curve=exponential max=500 min=5
    python tools/create_longtail_dataset.py dataset=csv dataset.file=labels.csv curve=explicit counts=counts.csv
    python tools/create_longtail_dataset.py dataset=voc2012 dataset.difficult=positive source=trainval \\
        method=published max=800                                                  as VOC-MLT was made

The curve: how many training images each class should have
    curve=pareto          pareto | exponential | explicit (counts=FILE with class,count; or counts='{cat: 90, dog: 5}')
    max=null min=1 b=6    of the first class, what it falls to, shape of pareto; max=null: all that it has
    order=cooccurrence    which class comes first: the one that most often comes along, or order=frequency
    cap=null at_least=0   no class gets more, every class gets at least so many
    shortage=error        a class has too few images: error, or clip its target
How images are chosen
    method=balanced       near the curve for all classes at once; published: the algorithm and random stream of VOC-MLT
    source=train          or trainval: the validation split too
    seed=0
Validation part, never trained on
    val_fraction=0.1      of the source, stratified; 0: none (then tune on data of your own, not on the test set)
    val_per_class=null    instead: so many images of each class
Groups and output
    head_min=100 medium_min=20
    name=null out=null    folder: out, or appendix/<dataset.name>/<name>; name is made from the options
    overwrite=false

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
        dataset_tools.create_longtail, dataset_tools.CreateLongtail, about=__doc__ or "", config_dir=ROOT / "configs"
    )
