"""A file of each published family, on its data set in the official layout without training images: the same figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor, nn

from mltrain.commands.evaluate import evaluate
from mltrain.config.compose import load_run
from mltrain.datasets.mlt import COCO_CLASSES
from mltrain.datasets.voc import CLASSES as VOC_CLASSES
from mltrain.errors import CheckpointError
from mltrain.runs.convert import convert
from tests.models import published_models as theirs

N, SIDE = 8, 64
TINY = (1, 1, 1, 1)
IDS = [f"/m/{k:02d}" for k in range(5)]
CONCEPTS = ["airport", "clouds", "sky", "water"]
IMAGENET = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def pixels(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def write_image(path: Path, k: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(k)).save(path, format="PNG")  # lossless, whatever the name says


def drawn(classes: int) -> np.ndarray:
    """Targets of N images, (N, classes), with a label in every image."""
    targets = (np.random.default_rng(7).random((N, classes)) < 0.3).astype(np.int64)
    targets[np.arange(N), np.arange(N) % classes] = 1
    return targets


# -- data sets: write them, return the known targets (-1: unknown) ----------------------------------------------------


def coco(root: Path, year: int = 2014) -> np.ndarray:
    targets = drawn(80)
    for k in range(N):
        write_image(root / f"val{year}/{k:012d}.jpg", k)
    content = {
        "images": [{"id": k, "file_name": f"{k:012d}.jpg"} for k in range(N)],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(COCO_CLASSES)],
        "annotations": [
            {"id": k, "image_id": int(i), "category_id": int(c) + 1, "area": 9.0, "bbox": [0, 0, 3, 3], "iscrowd": 0}
            for k, (i, c) in enumerate(np.argwhere(targets == 1))
        ],
    }
    (root / "annotations").mkdir()
    (root / f"annotations/instances_val{year}.json").write_text(json.dumps(content))
    return targets


def voc_test(root: Path) -> np.ndarray:
    targets = drawn(20)
    targets[0, :2] = 1, -1  # -1: a difficult object
    folder = root / "VOCdevkit/VOC2007"
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    (folder / "ImageSets/Main/test.txt").write_text("".join(f"{k:06d}\n" for k in range(N)))
    for k, row in enumerate(targets):
        write_image(folder / f"JPEGImages/{k:06d}.jpg", k)
        objects = "".join(
            f"<object><name>{VOC_CLASSES[c]}</name><difficult>{int(row[c] < 0)}</difficult></object>"
            for c in np.flatnonzero(row)
        )
        (folder / f"Annotations/{k:06d}.xml").write_text(f"<annotation>{objects}</annotation>")
    return targets


def open_images(root: Path) -> np.ndarray:
    targets = drawn(len(IDS))
    targets[::3, 2] = -1
    (root / "oidv6-classes-trainable.txt").write_text("\n".join(IDS))
    rows = [f"{k:016x},verification,{IDS[c]},{targets[k, c]}\n" for k, c in np.argwhere(targets >= 0)]
    (root / "validation-annotations-human-imagelabels.csv").write_text(
        "ImageID,Source,LabelName,Confidence\n" + "".join(rows)
    )
    for k in range(N):
        write_image(root / f"validation/{k:016x}.jpg", k)
    return targets


def nuswide(root: Path) -> np.ndarray:
    targets = drawn(len(CONCEPTS))
    rows = [f'images/{k}.jpg,"{[CONCEPTS[c] for c in np.flatnonzero(row)]}",val\n' for k, row in enumerate(targets)]
    (root / "nus_wid_data.csv").write_text("filepath,label,split_name\n" + "".join(rows))
    for k in range(N):
        write_image(root / f"images/{k}.jpg", k)
    return targets


def imagenet(root: Path) -> np.ndarray:
    for k in range(N):
        write_image(root / f"val/n{k % 4:08d}/{k // 4}.JPEG", k)
    return np.eye(4, dtype=np.int64)[np.arange(N) % 4]


# -- families --------------------------------------------------------------------------------------------------------


class Family(NamedTuple):
    model: Callable[[], nn.Module]
    write: Callable[[Path], np.ndarray]
    dataset: list[str]
    """KEY=VALUE; the root is added"""
    content: dict[str, Any]
    """what the file has beside the tensors"""
    threshold: float
    normalised: bool = False
    options: tuple[str, ...] = ()
    """KEY=VALUE of the conversion"""


def tresnet(head: nn.Module, *, pooled: bool = True) -> nn.Module:
    return theirs.TResNet(TINY, 16, False, head, pooled=pooled)


def named(names: Sequence[str]) -> dict[str, Any]:
    return {"num_classes": len(names), "idx_to_class": dict(enumerate(names))}


def query2label() -> nn.Module:
    return theirs.Query2Label(theirs.ResNet(TINY), 2048, 80, size=SIDE, dim=32, ffn=40)


UNDERSCORES = {"meta": {"CLASSES": tuple(name.replace(" ", "_").title() for name in COCO_CLASSES)}}
FAMILIES: dict[str, Family] = {
    "asl": Family(lambda: tresnet(theirs.Linear(512, 80)), coco, ["dataset=coco"], named(COCO_CLASSES), 0.7),
    "asl_nuswide": Family(
        lambda: tresnet(theirs.Linear(512, 4)), nuswide, ["dataset=nuswide_csv"], named(CONCEPTS[::-1]), 0.7
    ),
    "ml_decoder": Family(
        lambda: tresnet(theirs.MLDecoder(512, 80), pooled=False), coco, ["dataset=coco"], named(COCO_CLASSES), 0.75
    ),
    "csl": Family(
        lambda: tresnet(theirs.Bottleneck(512, 5)),
        open_images,
        ["dataset=openimages", "dataset.descriptions=null"],
        named(IDS),
        0.7,
    ),
    "query2label": Family(query2label, coco, ["dataset=coco", "dataset.keep_unlabelled=true"], {}, 0.5, True),
    "csra": Family(
        lambda: theirs.CSRA(TINY, 20, 1, 0.1), voc_test, ["dataset=voc2007"], {}, 0.5, options=("head.lam=0.1",)
    ),
    "distribution_balanced": Family(
        lambda: theirs.DistributionBalanced(TINY, 80),
        lambda root: coco(root, 2017),
        ["dataset=coco_mlt"],
        UNDERSCORES,
        0.5,
        True,
    ),
    "tresnet": Family(
        lambda: tresnet(theirs.Linear(512, 4)),
        imagenet,
        ["dataset=folder"],
        {},
        0.5,
        options=("task=single_label", "loss=cross_entropy"),
    ),
}
QUIET = ["runner.device=cpu", "runner.amp=off", "data.num_workers=0", "runner.eval_batch_size=8", "logger.progress=off"]


def settings(family: Family, root: Path) -> list[str]:
    if family.dataset[0].endswith("nuswide_csv"):
        return [*family.dataset, f"dataset.file={root}/nus_wid_data.csv"]
    split = [f"dataset.split={root}/nowhere"] if family.dataset[0].endswith("_mlt") else []
    return [*family.dataset, f"dataset.root={root}", *split]


def converted(family: Family, root: Path, **content: Any) -> tuple[Path, Tensor]:
    """Return the run folder of a file of the family, and the published model's logits of the images."""
    model = theirs.randomised(family.model())
    torch.save({"model": model.state_dict(), **(content or family.content)}, root / "theirs.pth")
    images = torch.from_numpy(np.stack([pixels(k) for k in range(N)])).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        logits = model((images - IMAGENET[0]) / IMAGENET[1] if family.normalised else images)
    size = () if "query_embed.weight" in model.state_dict() else (f"model.image_size={SIDE}",)
    return convert(root / "theirs.pth", [*size, *family.options], out=root / "run"), logits


@pytest.mark.parametrize("name", FAMILIES)
def test_figures_of_a_published_file_on_its_data_set(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    family = FAMILIES[name]
    targets = family.write(tmp_path)
    folder, logits = converted(family, tmp_path)
    cfg = load_run(folder, [*settings(family, tmp_path), *QUIET])
    assert cfg.metrics.threshold == family.threshold
    result = evaluate(cfg, folder)
    assert result is not None
    if name == "tresnet":
        right = logits.argmax(1).numpy() == targets.argmax(1)
        assert result["val"]["accuracy"] == pytest.approx(100 * right.mean(), abs=1e-4)
        return
    if name == "asl_nuswide":  # its classes are in another order there
        logits = logits.flip(1)
    scores = logits.numpy()  # large logits would tie at a probability of 1
    known = targets >= 0
    ranked = [c for c in range(targets.shape[1]) if {0, 1} <= set(targets[known[:, c], c].tolist())]
    precisions = [average_precision_score(targets[known[:, c], c], scores[known[:, c], c]) for c in ranked]
    assert result["val"]["map"] == pytest.approx(100 * np.mean(precisions), abs=1e-3)
    chosen = scores > np.log(family.threshold / (1 - family.threshold))
    assert result["val"]["OF1"] == pytest.approx(100 * f1_score(targets[known], chosen[known]), abs=1e-3)
    assert not any(key.startswith(("map_head", "map_tail")) for key in result["val"])  # no training set was counted
    if not family.content:
        assert "the file names no classes, so its" in caplog.text


def test_class_names_that_cannot_be_matched_are_refused_with_what_helps(tmp_path: Path) -> None:
    family = FAMILIES["asl_nuswide"]
    family.write(tmp_path)
    folder, _ = converted(family, tmp_path, **named(["Air-Port", "cloud s", "sky", "lake"]))
    cfg = load_run(folder, [*settings(family, tmp_path), *QUIET])
    with pytest.raises(CheckpointError) as caught:
        evaluate(cfg, folder)
    text = str(caught.value)
    assert "only the dataset has 'water'; only the checkpoint has 'lake'" in text
    assert f"mltrain convert_checkpoint theirs.pth classes=FILE out={folder} overwrite=true" in text
    (tmp_path / "names.txt").write_text("Air-Port\ncloud s\nsky\nWATER\n")
    convert(
        tmp_path / "theirs.pth",
        [f"model.image_size={SIDE}"],
        out=folder,
        classes=str(tmp_path / "names.txt"),
        overwrite=True,
    )
    result = evaluate(load_run(folder, [*settings(family, tmp_path), *QUIET]), folder)
    assert result is not None
    rows = (folder / "evaluation_val.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["Air-Port", ""], ["cloud s", ""], ["sky", ""], ["WATER", ""]]


def test_a_name_that_could_be_two_classes_is_refused(tmp_path: Path) -> None:
    family = FAMILIES["asl_nuswide"]
    family.write(tmp_path)
    folder, _ = converted(family, tmp_path, **named(["AirPort", "air port", "sky", "water"]))
    cfg = load_run(folder, [*settings(family, tmp_path), *QUIET])
    with pytest.raises(CheckpointError, match="not clear: 'AirPort', 'air port', 'airport'"):
        evaluate(cfg, folder)
