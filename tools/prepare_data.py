"""Get a data set ready: download what has a public address, unpack it where its reader looks, verify, shrink.

    python tools/prepare_data.py dataset=voc2007
    python tools/prepare_data.py dataset=coco dataset.root=/data/coco keep_archives=false
    python tools/prepare_data.py dataset=coco shrink=512               and a copy of smaller images in data/coco_512
    python tools/prepare_data.py dataset=csv dataset.file=labels.csv   your own: every file there, none in two splits?

Interrupt it at any time: the same command goes on from there. What is done is not done again. What cannot be
downloaded (NUS-WIDE, VG500, the images of Open Images, the splits of VOC-MLT and COCO-MLT) it says where to get.

    download=false        only check what is there
    again=true            unpack, and where the archive is gone download, also what is there
    keep_archives=false   delete each archive once it is unpacked; without it they stay in <dataset.root>/downloads
    shrink=SIZE           make a copy with images whose shorter side has at most SIZE pixels; same names
    out=DIR               its folder; default: <dataset.root>_<SIZE>
    quality=90            of its JPEG files
    workers=0             threads that make it; 0: one for each core

    --cfg job             print every option instead of running
    --config-dir DIR      look for data set configs in DIR too
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.config import dataset_tools, prepare_tool  # noqa: E402

if __name__ == "__main__":
    dataset_tools.main(
        prepare_tool.prepare_data, prepare_tool.PrepareData, about=__doc__ or "", config_dir=ROOT / "configs"
    )
