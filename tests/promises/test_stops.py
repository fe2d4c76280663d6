"""What must stop a run stops it cleanly; what must not, does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from mltrain.engine.step import TrainStep
from mltrain.errors import CheckpointError, DataError, NonFiniteError
from tests.promises.runs import assert_same, command, execute, fit, records, state


def test_non_finite_loss_stops_before_the_step_with_a_dump(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mltrain.losses import AsymmetricLoss

    forward = AsymmetricLoss.forward
    calls: list[int] = []

    def spoilt(self: nn.Module, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        value: torch.Tensor = forward(self, logits, targets)
        return value * float("nan") if len(calls) == 8 else value

    steps: list[TrainStep] = []
    init = TrainStep.__init__
    monkeypatch.setattr(TrainStep, "__init__", lambda self, **kw: (steps.append(self), init(self, **kw))[1])
    monkeypatch.setattr(AsymmetricLoss, "forward", spoilt)
    with pytest.raises(NonFiniteError, match=r"step 7: the loss is nan.*nonfinite_rank0.json.*optimizer.lr"):
        fit(overrides)
    dump = json.loads(next((tmp_path / "runs").rglob("nonfinite_rank0.json")).read_text())
    assert len(dump["images"]) == 16
    assert all(Path(image).is_file() for image in dump["images"])
    assert dump["lr"]["head_decay"] > 0
    assert all(torch.isfinite(p).all() for p in steps[0].parameters)
    folder = next((tmp_path / "runs").rglob("last.pt")).parent
    assert state(folder)["step"] == 5, "the checkpoint of the last whole epoch stands"


def test_finished_run_is_reported_and_not_repeated(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fit([*overrides, "runner.max_steps=2"])
    before = (folder / "result.json").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", None)
        assert fit([*overrides, "runner.max_steps=2", "data.num_workers=1"]) == folder
    assert (folder / "result.json").read_text() == before
    first = state(folder)
    fit([*overrides, "runner.max_steps=2", "rerun=true"])
    assert (folder / "result.json").read_text() != before, "rerun=true trains again"
    assert_same(state(folder), first)


def test_the_same_command_twice_gives_the_same_bits_and_another_seed_does_not(
    overrides: list[str], tmp_path: Path
) -> None:
    runs = [fit([*overrides, f"paths.runs={tmp_path}/{k}", f"seed={k // 2}"]) for k in range(3)]
    assert_same(state(runs[1]), state(runs[0]))
    assert records(runs[1]) == records(runs[0])
    weight = "backbone.model.conv1.weight"
    key = next(iter(k for k in state(runs[0])["model"] if k.endswith("weight")), weight)
    assert not torch.equal(state(runs[2])["model"][key], state(runs[0])["model"][key])
    assert runs[2].name != runs[0].name


@pytest.fixture
def csv_set(tmp_path: Path) -> Path:
    """24 images, one of the training images cut short."""
    for k in range(24):
        Image.new("RGB", (40, 30), (10 * k, 100, 255 - 10 * k)).save(tmp_path / f"{k}.jpg")
    whole = (tmp_path / "5.jpg").read_bytes()
    (tmp_path / "5.jpg").write_bytes(whole[: len(whole) // 2])
    rows = [f"{k}.jpg,{'ab'[k % 2]};c,{'train' if k < 16 else 'val'}" for k in range(24)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,labels,split", *rows]) + "\n")
    return tmp_path / "labels.csv"


def of_csv(overrides: list[str], file: Path) -> list[str]:
    kept = [item for item in overrides if not item.startswith("dataset.")]
    return [*kept, "dataset=csv", f"dataset.file={file}", "runner.batch_size=4"]


def test_corrupt_training_image_stops_with_its_path_or_is_skipped_counted_and_listed(
    overrides: list[str], csv_set: Path
) -> None:
    options = of_csv(overrides, csv_set)
    with pytest.raises(DataError, match=r"5\.jpg"):
        fit(options)
    folder = fit([*options, "data.on_corrupt=skip"])
    listed = json.loads((folder / "result.json").read_text())["corrupt_images"]
    assert len(listed) == 1
    assert "5.jpg" in listed[0]
    with pytest.raises(DataError, match="corrupt_budget"):
        fit([*options, "data.on_corrupt=skip", "data.corrupt_budget=0", "rerun=true"])


def test_corrupt_evaluation_image_always_stops_with_its_path(overrides: list[str], csv_set: Path) -> None:
    csv_set.write_text(
        csv_set.read_text(encoding="utf-8").replace("5.jpg,b;c,train", "5.jpg,b;c,val"), encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"5\.jpg"):
        fit([*of_csv(overrides, csv_set), "data.on_corrupt=skip"])


def test_checkpoint_of_other_classes_is_refused(overrides: list[str], csv_set: Path) -> None:
    (csv_set.parent / "5.jpg").write_bytes((csv_set.parent / "4.jpg").read_bytes())
    options = of_csv(overrides, csv_set)
    folder = fit([*options, "runner.max_steps=2"])
    (folder / "result.json").unlink()
    (folder / "data.npz").unlink()  # as runs of earlier versions, which remember no data
    csv_set.write_text(csv_set.read_text(encoding="utf-8").replace("c,", "d,"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="only the dataset has 'd'; only the checkpoint has 'c'"):
        fit([*options, "runner.max_steps=2"])


def test_user_errors_have_no_traceback_and_exit_2(overrides: list[str], csv_set: Path) -> None:
    missing = execute(command("dataset=coco", "paths.data=/nowhere"), code=2)
    assert "instances_train2014.json" in missing.stderr
    corrupt = execute(command(*of_csv(overrides, csv_set)), code=2)
    assert "5.jpg" in corrupt.stderr
    for done in (missing, corrupt):
        assert "Traceback" not in done.stderr
