"""The content of checkpoints: their keys are a file format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.state import TrainingPosition, TrainState, read_best
from mltrain.errors import CheckpointError
from mltrain.labels import LabelSet, LabelStats
from mltrain.models import Classifier, GlobalAveragePool, create_backbone
from mltrain.optim.ema import ModelEma

WEIGHTS = {"model", "ema", "stats", "class_names", "config", "best", "step"}
POSITION = {"optimizer", "scaler", "loss", "history", "seconds", "loss_sum", "corrupt"}
BEST = {"epoch": 1, "step": 5, "weights": "ema", "by": "map", "map": 50.0}


def classifier(classes: int = 2) -> Classifier:
    backbone = create_backbone(name="test_resnet", image_size=32)
    return Classifier(backbone, GlobalAveragePool(backbone.num_features, classes))


def made_state(position: TrainingPosition | None = None) -> TrainState:
    targets = np.array([[1, 0], [0, 1], [1, -1]], dtype=np.int8)
    labels = LabelSet.from_dense(name="a", root="/", files=["1", "2", "3"], class_names=["x", "y"], targets=targets)
    model = classifier()
    ema = ModelEma(model)
    with torch.no_grad():
        model.head.fc.bias += 1
    stats = LabelStats.from_labels(labels)
    return TrainState(
        model.state_dict(), ema.state_dict(), ("x", "y"), stats, BEST, {"seed": 0}, step=5, position=position
    )


def made_position(**changes: object) -> TrainingPosition:
    given = {"optimizer": {}, "scaler": None, "history": [{"epoch": 1}], "seconds": 1.5, "loss_sum": 0.5}
    return TrainingPosition(**{**given, "corrupt": ["a.jpg: empty"], "loss": {}, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_state_keeps_the_keys_of_the_files_and_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    state = made_state(made_position() if name == "last" else None)
    assert state.to_dict().keys() == WEIGHTS | (POSITION if name == "last" else set())
    CheckpointFolder(tmp_path).save(state.to_dict(), name)
    content = CheckpointFolder(tmp_path).load(name)
    assert content is not None
    again = TrainState.from_dict(content, tmp_path)
    assert (again.class_names, again.best, again.config, again.step) == (("x", "y"), BEST, {"seed": 0}, 5)
    assert again.position == state.position
    assert again.stats is not None and state.stats is not None
    assert again.stats.to_json() == state.stats.to_json()
    assert all(torch.equal(again.weights("val")[key], value) for key, value in state.model.items())
    assert again.chosen == "ema"
    assert torch.equal(again.weights("val")["head.fc.bias"], again.weights("ema")["head.fc.bias"] + 1)


def test_only_a_run_with_a_curriculum_saves_one() -> None:
    state = made_state(made_position(curriculum={"images": 3}))
    assert state.to_dict().keys() == WEIGHTS | POSITION | {"curriculum"}


def test_nothing_is_chosen_before_the_first_evaluation() -> None:
    content = made_state().to_dict() | {"best": None}
    state = TrainState.from_dict(content, Path("last.pt"))
    assert state.best == {} and state.to_dict()["best"] is None


def test_checkpoints_from_before_losses_had_a_state_are_read() -> None:
    content = made_state(made_position()).to_dict()
    del content["loss"]
    position = TrainState.from_dict(content, Path("last.pt")).position
    assert position is not None and position.loss is None


def test_a_file_that_is_no_checkpoint_of_a_run_is_named_with_the_missing_key(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path).save({"model": {}}, "best")
    with pytest.raises(CheckpointError, match=r"best\.pt: not a checkpoint of a run: 'ema' is missing"):
        read_best(tmp_path)
    (tmp_path / "best.pt").unlink()
    with pytest.raises(CheckpointError, match=r"no best\.pt; let the run finish an evaluation first"):
        read_best(tmp_path)


def test_weights_of_another_model_or_of_other_classes_are_refused() -> None:
    state, other = made_state(), classifier(3)
    with pytest.raises(CheckpointError, match=r"does not fit the model of the config"):
        state.restore(other, ModelEma(other))
    with pytest.raises(CheckpointError, match=r"only the dataset has 'z'; only the checkpoint has 'y'"):
        state.check_classes(("x", "z"), Path("run"))
    model = classifier()
    models = state.restore(model, ModelEma(model))
    assert list(models) == ["val", "ema"]
    assert torch.equal(models["val"].head.fc.bias, models["ema"].head.fc.bias + 1)
