"""Show where in images a finished run finds its classes.

    python tools/explain.py RUN photo.jpg photos/ out=explained
    python tools/explain.py RUN photo.jpg topk=5                  the five best classes
    python tools/explain.py RUN photo.jpg 'classes=[dog,sky]'     these, whatever their scores

For photo.jpg: explained/photo.png with all classes side by side, and explained/photo/01_dog.png ... of each. Without
classes= those that tools/predict.py would name; threshold=, topk= and weights= are as there. Images are given in the
same ways, and KEY=VALUE changes the config that the run folder holds.

What the colours show is a matter of the head. gap, pfc and csra: evidence, what each place adds to the class's logit
(class activation maps), where it speaks for the class. ml_decoder, zero_shot and query2label: attention, where the
class's query reads; with fewer groups than classes (head.groups), classes of a group share theirs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.config import cli  # noqa: E402

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mltrain.config.schema import Explain


def work(folder: Path, cfg: DictConfig, options: Explain, images: list[str]) -> None:
    from mltrain.config.explain_tool import explain

    explain(cfg, folder, options, images)


if __name__ == "__main__":
    cli.main_of_run(work, about=__doc__ or "", options="Explain", inputs="images")
