"""Runs with a curriculum: they resume exactly, ranks agree, every set and loss goes with it, wrong ones are refused."""

from __future__ import annotations

import csv
import math
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mltrain.cli import read
from mltrain.commands.create_longtail_dataset import COMMAND, create_longtail
from mltrain.config.build import load
from mltrain.config.identity import run_folder, run_id
from mltrain.engine import distributed
from mltrain.engine.curriculum import Curriculum
from mltrain.engine.step import TrainStep
from mltrain.errors import CheckpointError, ConfigError, Interrupted, NonFiniteError
from mltrain.models.classifier import Classifier
from mltrain.runs.assemble import assemble
from tests.promises import test_single_label
from tests.promises.runs import TINY, assert_same, execute, records, state, stop_at, torchrun

STAGES = ["curriculum=spbl", "curriculum.add_ratios=[0.5,1]", "runner.epochs=3"]
"""The seed set, half of the rest, all: 3 epochs of 5 steps on the embedded set, of 2 on the folder."""
FULL = [*STAGES, "loss.class_weight=curriculum"]


shapes_folder = test_single_label.shapes_folder  # a fixture


@pytest.fixture
def single(shapes_folder: Path, tmp_path: Path) -> list[str]:
    """32 images in three folders, long-tailed: 2 steps an epoch."""
    kept = [item for item in TINY if not item.startswith("dataset.")]
    return [*kept, "dataset=folder", f"dataset.root={shapes_folder}", f"paths.runs={tmp_path}/runs"]


def fit(options: list[str]) -> Path:
    """Train in this process, without the tables and plots at the end; the run folder."""
    cfg = load(options)
    with distributed.start("cpu") as dist:
        assemble(cfg, dist).fit()
    return run_folder(cfg)


def tables(folder: Path) -> list[dict[str, str]]:
    with (folder / "curriculum.csv").open() as file:
        return list(csv.DictReader(file))


def shown(folder: Path) -> list[np.ndarray]:
    """Return how many images of each class every stage in the last checkpoint has chosen."""
    return [stage["sizes"].numpy() for stage in state(folder)["curriculum"]["stages"]]


def stop_and_resume(options: list[str], step: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Path]:
    """A run that a signal at `step` stops, and that then goes on: the step it was saved at, and its folder."""
    places = [*options, f"paths.runs={folder}"]
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, step)
        fit(places)
    stopped = state(next(folder.rglob("last.pt")).parent)["step"]
    return stopped, fit(places)


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("last", "best"):
        assert_same(state(a, name), state(b, name))
    assert records(a) == records(b)
    assert (a / "curriculum.csv").read_text() == (b / "curriculum.csv").read_text()


@pytest.mark.parametrize("options", [[*STAGES, "mix=mixup"]], ids=["spbl"])
def test_stopped_in_any_stage_resumes_to_the_same_bits(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    given = [*overrides, *options, "dataset.num_train=48"]  # 3 steps an epoch
    whole = fit([*given, f"paths.runs={tmp_path}/whole"])
    assert [stage["ratio"] for stage in state(whole)["curriculum"]["stages"]] == [0, 0.5, 1]
    for number, (signal_at, saved_at) in enumerate(
        [
            (0, 2),  # in the seed set
            (2, 3),  # its epoch is over: evaluation and choice are still to come
            (3, 5),  # in the next stage
        ]
    ):
        stopped, resumed = stop_and_resume(given, signal_at, tmp_path / str(number), monkeypatch)
        assert stopped == saved_at
        assert_same_run(resumed, whole)


@pytest.mark.parametrize(
    "options",
    [
        ["curriculum.scorer=svm", "data.num_workers=1"],
        ["curriculum.costs=legacy", "sampler=class_cost", "runner.accumulate=2", "runner.batch_size=8"],
    ],
    ids=lambda options: options[0],
)
def test_weighted_losses_samplers_and_the_svm_resume_to_the_same_bits(
    single: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    given = [*single, *FULL, *options]
    whole = fit([*given, f"paths.runs={tmp_path}/whole"])
    stopped, resumed = stop_and_resume(given, 3, tmp_path / "stopped", monkeypatch)
    assert stopped == 4, "the second stage has been trained, the third is still to be chosen"
    assert_same_run(resumed, whole)


def test_stopped_while_images_are_scored_resumes_there(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*overrides, *STAGES, "dataset.num_train=32"]
    whole = fit([*options, f"paths.runs={tmp_path}/whole"])
    scores = Curriculum._scores

    def interrupted(self: Curriculum, *args: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return scores(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="during evaluation"):
        patch.setattr(Curriculum, "_scores", interrupted)
        fit(options)
    stopped = state(next((tmp_path / "runs").rglob("last.pt")).parent)
    assert stopped["step"] == 2 and len(stopped["curriculum"]["stages"]) == 1
    assert_same(state(fit(options)), state(whole))


def test_each_epoch_trains_on_its_stage_and_on_nothing_else(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    call = TrainStep.__call__

    def spy(self: TrainStep, step: int, batches: Any, *args: Any) -> Any:
        seen.append([int(i) for batch in batches for i in batch.indices])
        return call(self, step, batches, *args)

    monkeypatch.setattr(TrainStep, "__call__", spy)
    with distributed.start("cpu") as dist:
        runner = assemble(load([*overrides, *STAGES, "data.num_workers=1"]), dist)
        curriculum = runner.curriculum
        assert curriculum is not None
        stages = []
        monkeypatch.setattr(Curriculum, "_log", lambda self, epoch: stages.append((epoch, self.stages[-1])))
        runner.fit()
    assert runner.steps_per_epoch == 5 and runner.total_steps == len(seen) == 15, "as without a curriculum"
    assert [epoch for epoch, _ in stages] == [0, 1, 2]
    for (epoch, stage), batches in zip(stages, chunks(seen), strict=True):
        images = [i for batch in batches for i in batch]
        assert set(images) <= set(stage.indices), epoch
        # an epoch goes round the stage's images as evenly as they go into it
        allowed = np.bincount(stage.indices, minlength=80)
        rounds = -(-80 // len(stage.indices))
        assert (np.bincount(images, minlength=80) <= (rounds + 1) * allowed).all()
        if epoch == 0:
            assert set(images) == set(stage.indices)
    sizes = [len(set(stage.indices)) for _, stage in stages]
    assert sizes == sorted(sizes) and sizes[0] < 30 and sizes[-1] == 80


def chunks(items: list[list[int]]) -> list[list[list[int]]]:
    return [items[k : k + 5] for k in range(0, len(items), 5)]


def test_the_choice_is_by_the_model_as_it_stands(single: list[str]) -> None:
    """Scored apart, with the plain formula on the whole training set at once."""
    with distributed.start("cpu") as dist:
        runner = assemble(load([*single, *FULL, "model.name=test_vit"]), dist)
        curriculum = runner.curriculum
        assert curriculum is not None
        curriculum.start_epoch(0)
        first = curriculum.stages[0]
        with closing(curriculum.score_loader()) as loader:
            batches = list(loader)
        images, targets = (torch.cat([getattr(b, key) for b in batches]) for key in ("images", "targets"))
        with torch.no_grad():
            logits = runner.model.eval()(images).double()
        losses = -torch.log_softmax(logits, dim=1)[targets == 1].numpy()
        curriculum.start_epoch(1)
        expected = curriculum.pace.next(first, losses)
    found = curriculum.stages[1]
    assert found.indices.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(found.complexity.values, expected.complexity.values, rtol=1e-4)
    weight = runner.train_step.loss.weight
    assert isinstance(weight, torch.Tensor)
    np.testing.assert_allclose(weight.numpy(), found.costs / found.costs.mean(), rtol=1e-6)


def test_labels_of_validation_and_test_do_not_change_the_choice(
    single: list[str],
    shapes_folder: Path,
    tmp_path: Path,
) -> None:
    """The same training images, another validation set: the same stages, weights and training loss."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/train").symlink_to(shapes_folder / "train")
    (tmp_path / "other/val").symlink_to(shapes_folder / "test")
    a = fit([*single, *FULL])
    b = fit([*single, *FULL, f"dataset.root={tmp_path}/other"])
    assert_same(state(a)["curriculum"], state(b)["curriculum"])
    assert_same(state(a)["model"], state(b)["model"])


@pytest.mark.slow
def test_two_ranks_choose_and_train_as_one_process(overrides: list[str], tmp_path: Path) -> None:
    # No batch-norm and no Adam, as in test_distributed; an odd number of training images.
    smooth = ["model.name=test_vit", "dataset.num_train=81", "optimizer=sgd", "optimizer.lr=1e-2"]
    settings = [*overrides, *STAGES, *smooth, "runner.batch_size=8"]
    one = fit([*settings, f"paths.runs={tmp_path}/one"])
    execute(torchrun(*settings))
    two = next((tmp_path / "runs").rglob("last.pt")).parent
    assert two.name == one.name
    a, b = state(one), state(two)
    for x, y in zip(a["curriculum"]["stages"], b["curriculum"]["stages"], strict=True):
        assert x["indices"].tolist() == y["indices"].tolist()
        torch.testing.assert_close(y["mean_loss"], x["mean_loss"], rtol=1e-4, atol=1e-5)
    for key, value in a["model"].items():
        torch.testing.assert_close(b["model"][key], value, rtol=2e-4, atol=2e-5, msg=key)


LOSSES = ["db", "ghm", "csl", "zlpr", "splc"]


@pytest.mark.parametrize("loss", LOSSES)
def test_any_loss_of_several_labels_goes_with_it(overrides: list[str], loss: str) -> None:
    with distributed.start("cpu") as dist:
        runner = assemble(load([*overrides, *STAGES, f"loss={loss}", "dataset.num_train=48"]), dist)
    assert runner.curriculum is not None
    for epoch in range(2):
        runner.curriculum.start_epoch(epoch)
        runner.model.train()
        runner.train_step.set_epoch(epoch)
        batch = next(runner.train_loader.epoch(epoch))
        assert math.isfinite(runner.train_step(epoch, [batch]).loss)
    assert [stage.ratio for stage in runner.curriculum.stages] == [0, 0.5]


@pytest.mark.parametrize("sampler", ["uniform", "class_aware", "repeat_factor", "square_root", "class_cost"])
def test_any_sampler_shows_the_images_of_the_stage(overrides: list[str], sampler: str) -> None:
    few = ["sampler.threshold=0.3"] if sampler == "repeat_factor" else []
    with distributed.start("cpu") as dist:
        runner = assemble(load([*overrides, *STAGES, f"sampler={sampler}", *few]), dist)
        assert runner.curriculum is not None
        length = runner.train_loader.epoch_size
        runner.curriculum.start_epoch(0)
        order = runner.train_loader._sampler.order(0)
    assert len(order) == length
    assert set(order) <= set(runner.curriculum.stages[0].indices)


@pytest.mark.parametrize("options", [["partial=drop"], ["partial=unseen", "partial.classes=[disc,star]"]])
def test_unknown_labels_go_with_it(overrides: list[str], options: list[str]) -> None:
    with distributed.start("cpu") as dist:
        curriculum = assemble(load([*overrides, *STAGES, *options, "dataset.num_train=48"]), dist).curriculum
    assert curriculum is not None
    curriculum.start_epoch(1)
    stage = curriculum.stages[1]
    known = curriculum.pace.labels.select(np.unique(stage.indices)).positive_pairs()[1]
    assert stage.complexity.counts.tolist() == np.bincount(known, minlength=20).tolist()
    assert np.isfinite(stage.costs).all() and (stage.costs[stage.complexity.counts == 0] == 1).all()


def test_the_table_says_what_was_chosen_and_what_it_cost(single: list[str]) -> None:
    folder = fit([*single, *FULL])
    rows = tables(folder)
    assert [(row["stage"], row["class"]) for row in rows] == [
        (str(k), name) for k in range(3) for name in ("circle", "cross", "square")
    ]
    assert [int(row["images"]) for row in rows] == [4, 2, 2, 10, 6, 4, 16, 10, 6]
    for row in rows[3:]:
        exact = math.exp(float(row["mean_loss"])) / int(row["positives"])
        assert float(row["complexity"]) == pytest.approx(exact, rel=1e-4)
        assert 1 <= float(row["cost"]) <= 10


def test_a_long_tail_made_from_the_digits_trains_with_it(tmp_path: Path) -> None:
    words = ["dataset=digits", f"paths.data={tmp_path}/data", "curve=exponential", "max=12", "min=2"]
    create_longtail(*read(COMMAND, [*words, "val_per_class=2", f"out={tmp_path}/split"]))
    own = [item for item in TINY if not item.startswith(("dataset.", "runner.epochs"))]
    places = [f"paths.data={tmp_path}/data", f"paths.runs={tmp_path}/runs", f"dataset.split={tmp_path}/split"]
    folder = fit(["+experiment=digits_lt_spbl", *own, *places, "runner.epochs=6", "curriculum.scorer=svm"])
    assert {"accuracy", "macro_F1", "weighted_F1", "g_mean", "mauc"} <= state(folder)["history"][-1]["val"].keys()
    assert shown(folder)[-1].tolist()[0] == 12 and shown(folder)[-1].tolist()[-1] == 2


def test_runs_without_a_curriculum_keep_their_id(overrides: list[str]) -> None:
    plain = load([*overrides])
    assert run_id(plain) == run_id(load([*overrides, "curriculum=none"])) != run_id(load([*overrides, *STAGES]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["curriculum=spbl", "curriculum.scorer=svm"], r"curriculum\.scorer=svm: .*scorer=model"),
        (["curriculum=spbl", "data.on_corrupt=skip"], r"data\.on_corrupt=skip: .*curriculum=none"),
        (["curriculum=spbl", "curriculum.add_ratio=[1]"], r"curriculum\.add_ratio=.*did you mean .*add_ratios"),
        (["curriculum=spbl", "curriculum.seed=1"], r"curriculum\.seed=1: cannot be set"),
        (["sampler=class_cost"], r"sampler: .*add curriculum=spbl"),
        (["dataset=folder", "loss.class_weight=curriculum"], r"loss\.class_weight=curriculum: .*add curriculum=spbl"),
        (["curriculum=spb"], "spbl"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_wrong_combination_is_refused_with_the_config(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load(options)


def test_too_few_epochs_are_refused_before_training(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainStep, "__call__", None)
    with pytest.raises(ConfigError, match=r"runner\.epochs=2 are fewer than the 6 that 6 stages need"):
        fit([*overrides, "curriculum=spbl"])
    assert not (tmp_path / "runs").exists(), "not even a run folder is made"


def test_weights_that_give_nan_stop_the_choice(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with distributed.start("cpu") as dist:
        runner = assemble(load([*overrides, *STAGES]), dist)
        assert runner.curriculum is not None
        runner.curriculum.start_epoch(0)
        classify = Classifier.classify
        monkeypatch.setattr(Classifier, "classify", lambda self, x: classify(self, x) * torch.nan)
        with pytest.raises(NonFiniteError, match="that the curriculum scores"):
            runner.curriculum.start_epoch(1)


def test_a_checkpoint_of_another_training_set_is_refused(overrides: list[str]) -> None:
    with distributed.start("cpu") as dist:
        kept = assemble(load([*overrides, *STAGES]), dist).curriculum
        other = assemble(load([*overrides, *STAGES, "dataset.num_train=90"]), dist).curriculum
    assert kept is not None and other is not None
    kept.start_epoch(0)
    with pytest.raises(CheckpointError, match="is for 80 training images, shapes/train has 90"):
        other.load_state_dict(kept.state_dict())
