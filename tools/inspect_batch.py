"""See what enters the model: one batch of training as a picture, its tensors and targets as tables.

    python tools/inspect_batch.py                                            the embedded default
    python tools/inspect_batch.py dataset=csv dataset.file=labels.csv augment=standard mix=cutmix
    python tools/inspect_batch.py +experiment=coco_mlt_db dataset.root=/data/coco epoch=3 step=10

Takes every key of tools/train.py, and shows, bit for bit, the batch that this training would meet: images after
augmentation and mixing, targets in words (soft ones with their value, unknown ones counted), type, shape, layout and
range of the tensors before and after normalisation, and how often the sampler shows each class in an epoch beside how
often the data has it. No weights are loaded, no run folder is made.

    epoch=0 step=0        which batch, counted from 0
    images=32             images drawn and listed, at most
    top=10                classes at each end of the sampler's table
    out=batch.png         the picture

    --cfg job             print every option instead of running
    --config-dir DIR      look for configs in DIR too
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.config import dataset_tools  # noqa: E402
from mltrain.config import inspect_batch as tool  # noqa: E402

if __name__ == "__main__":
    dataset_tools.main(
        tool.inspect_batch, tool.InspectBatch, about=__doc__ or "", config_dir=ROOT / "configs", whole=True
    )
