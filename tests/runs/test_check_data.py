"""Data that cannot be learnt or evaluated are refused before training, with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mltrain.commands.evaluate import evaluate
from mltrain.config.build import instantiate, load, load_run
from mltrain.errors import ConfigError, DataError
from mltrain.runs.check_data import check_data
from tests.promises.runs import TINY, fit

SMALL = [word for word in TINY if not word.startswith("dataset.")]


def images(folder: Path, count: int = 40) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.new("RGB", (32, 32), (6 * k, 0, 0)).save(folder / f"{k}.jpg")


def table(folder: Path, rows: list[str]) -> list[str]:
    images(folder)
    file = folder / "labels.csv"
    file.write_text("image,labels,split\n" + "".join(f"{k}.jpg,{row}\n" for k, row in enumerate(rows)))
    return [f"paths.runs={folder}/runs", "dataset=csv", f"dataset.file={file}", *SMALL, "runner.epochs=1"]


@pytest.mark.parametrize("keep", ["true", "false"])
def test_a_coco_file_without_annotations_has_nothing_to_learn(tmp_path: Path, keep: str) -> None:
    for split in ("train", "val"):
        images(tmp_path / f"{split}2017", 4)
        content = {
            "images": [{"id": k, "file_name": f"{k}.jpg"} for k in range(4)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [{"id": 1, "image_id": 0, "category_id": 1}] if split == "val" else [],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    words = [f"paths.runs={tmp_path}/runs", "dataset=coco2017", f"dataset.root={tmp_path}", *SMALL]
    with pytest.raises(DataError, match="no training image has a label"):
        fit([*words, f"dataset.keep_unlabelled={keep}"])


def test_a_csv_whose_training_rows_are_empty_has_nothing_to_learn(tmp_path: Path) -> None:
    words = table(tmp_path, [",train"] * 20 + ["cat,val", "dog,val"] * 10)
    with pytest.raises(DataError, match="no training image has a label"):
        fit(words)


def test_a_class_that_only_val_has_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load(table(tmp_path, ["sea,train", "sun,train"] * 9 + ["sea;moon,val", "sun,val"] * 10))
    check_data(cfg, instantiate(cfg.dataset, "dataset"))
    said = "csv/val: 1 of its classes has no training image, so they cannot be learnt and lower the mean: moon"
    assert said in caplog.text
    caplog.clear()
    cfg = load(table(tmp_path, ["sea;?moon,train", "sun;?moon,train"] * 9 + ["sea;moon,val", "sun,val"] * 10))
    check_data(cfg, instantiate(cfg.dataset, "dataset"))
    assert not [record for record in caplog.records if record.levelname == "WARNING"], "unseen on purpose"


def test_one_marked_label_leaves_nothing_to_evaluate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = table(tmp_path, ["sea;-80C,train"] + ["sea,train", "sun,train"] * 9 + ["sea,val", "sun,val"] * 10)
    with pytest.raises(
        DataError, match=r"csv/val: no class has both a positive and a negative image, .* nothing to evaluate"
    ):
        fit(words)
    assert "the first is '-80C' in line 2" in caplog.text


def test_a_loss_of_torch_trains_and_refuses_unknown_targets(tmp_path: Path) -> None:
    loss = ["loss=bce", "loss._target_=torch.nn.BCEWithLogitsLoss", "~loss.label_smoothing", "~loss.pos_weight"]
    rows = ["sea,train", "sun,train"] * 10 + ["sea,val", "sun,val"] * 10
    folder = fit([*table(tmp_path, rows), *loss])
    assert (folder / "result.json").is_file()
    rows[0] = "sea;?sun,train"
    with pytest.raises(ConfigError, match=r"BCEWithLogitsLoss: 1 training targets are unknown \(-1\)"):
        fit([*table(tmp_path, rows), *loss, "name=other"])


def test_a_run_is_evaluated_without_its_training_images(tmp_path: Path) -> None:
    rows = ["sea,train", "sun,train"] * 10 + ["sea,val", "sun,val"] * 10
    folder = fit(table(tmp_path, rows))
    before = json.loads((folder / "result.json").read_text())
    for k in range(20):
        (tmp_path / f"{k}.jpg").unlink()
    after = evaluate(load_run(folder), folder)
    weights = before["best"]["weights"]
    assert after is not None and after[weights]["map"] == before[weights]["map"]
    (tmp_path / "20.jpg").unlink()
    with pytest.raises(DataError, match="1 of 20 image files is missing"):
        evaluate(load_run(folder), folder)
