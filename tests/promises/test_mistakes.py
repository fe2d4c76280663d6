"""A user's mistake is refused with the key or file to change, before training where that can be known before."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mltrain.commands.evaluate import evaluate
from mltrain.config.build import load, load_run
from mltrain.engine.lock import run_lock
from mltrain.engine.step import TrainStep
from mltrain.errors import CheckpointError, ConfigError, DataError, MltrainError, NonFiniteError
from mltrain.models.classifier import Classifier
from tests.promises.runs import ROOT, TINY, environment, fit


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["loss=bce", "loss.reduction=none"], ConfigError, r"loss\.reduction=none.*sum, mean, batchmean"),
        (["schedule=cosine", "runner.epochs=1"], ConfigError, r"schedule .*warm-up of 5 steps"),
        (["head=ml_decoder", "head.dim=30"], ConfigError, r"head .*dim=30.*num_heads=8"),
        (["head=ml_decoder", "head.num_heads=0"], ConfigError, r"head .*num_heads=0"),
        (["head=ml_decoder", "head.ffn_dim=0"], ConfigError, r"head .*ffn_dim=0"),
        (["model.checkpoint=/nowhere/weights.pt"], CheckpointError, r"/nowhere/weights\.pt: no such file"),
        (["model.name=test_vit", "model.image_size=33"], ConfigError, r"model\.image_size=33"),
        (["runner.accumulate=81"], ConfigError, r"80 images are too few in an epoch for runner\.accumulate=81"),
        (["metrics.absent=error", "dataset.num_val=2"], DataError, r"shapes/val: \d+ of 20 classes.*metrics\.absent"),
        (["metrics.threshold=1"], ConfigError, r"metrics\.threshold=1.*exclusive"),
        (["metrics.medium_min=0"], ConfigError, r"metrics\.medium_min=0.*at least 1"),
        (["dataset=csv", "dataset.file=."], ConfigError, r"dataset .*directory"),
        (["runner.amp=fp16"], ConfigError, r"runner\.amp=fp16 needs a CUDA device"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_mistake_is_refused_before_the_first_step(
    overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    error: type[MltrainError],
    message: str,
) -> None:
    if "dataset=csv" in options:
        overrides = [item for item in overrides if not item.startswith("dataset.")]
    monkeypatch.setattr(TrainStep, "__call__", None)
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        fit([*overrides, *options])


@pytest.mark.parametrize("name", ["test_byobnet", "test_resnet"])
def test_the_network_of_drawn_shapes_is_not_trained_on_photographs_in_silence(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f"{k}.png,{'ab'[k % 2]},{split}\n" for k, split in enumerate(SPLITS))
    (tmp_path / "labels.csv").write_text("image,labels,split\n" + rows)
    for k in range(len(SPLITS)):
        Image.new("RGB", (32, 32), (10 * k, 0, 0)).save(tmp_path / f"{k}.png")
    data = ["dataset=csv", f"dataset.file={tmp_path}/labels.csv"]
    frame = [item for item in TINY if not item.startswith(("dataset.", "model.name"))]
    with caplog.at_level("INFO", "mltrain"):
        fit([*frame, *data, f"model.name={name}", "runner.batch_size=4", "runner.epochs=1", f"paths.runs={tmp_path}"])
    assert ("it is meant for drawn shapes" in caplog.text) == (name == "test_byobnet")


def test_a_missing_compiler_is_said(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nmuch more")

    monkeypatch.setattr(torch, "compile", lambda function: broken)
    with pytest.raises(ConfigError, match=r"runner\.compile=true.*No working C\+\+ compiler found; .*=false$"):
        fit([*overrides, "runner.compile=true"])


SPLITS = ("train",) * 4 + ("val",) * 4
ABSENT = ("dataset=coco", "dataset.root=/nowhere", "model=timm", "model.name=test_resnet", "model.image_size=32")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ([], DataError, "missing  /nowhere/annotations"),
        (["model.pretrained=true"], DataError, "missing  /nowhere/annotations"),  # nothing is downloaded
        (["model.name=test_vit", "model.image_size=33"], ConfigError, r"model\.image_size=33"),
        (["model.checkpoint=/nowhere/weights.pt"], CheckpointError, r"/nowhere/weights\.pt: no such file"),
        (["head=ml_decoder", "head.dim=100"], ConfigError, r"head .*dim=100"),
        (["head=ml_decoder", "head.groups=80"], DataError, "missing  /nowhere/annotations"),
        (["loss=asl", "loss.clip=-1"], ConfigError, "loss .*clip=-1"),
        (["augment.flip=2"], ConfigError, "augment .*flip=2"),
        (["eval_resize=crop", "eval_resize.crop_pct=2"], ConfigError, "eval_resize .*crop_pct=2"),
        (["mix=mixup", "mix.probability=2"], ConfigError, "mix .*probability=2"),
        (["optimizer.lr=-1"], ConfigError, "optimizer .*lr"),
        (["schedule=one_cycle", "schedule.pct_start=2"], ConfigError, "schedule .*pct_start"),
        (["ema.decay=2"], ConfigError, "ema .*decay"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_without_data_every_other_part_is_built_and_its_mistakes_come_first(
    tmp_path: Path, options: list[str], error: type[MltrainError], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit([*ABSENT, f"paths.runs={tmp_path}", "runner.device=cpu", *options])


def test_runs_folder_that_cannot_be_written_is_named(overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"paths\.runs: the run folder .*file"):
        fit([*overrides, f"paths.runs={tmp_path}/file"])


def write_csv(folder: Path, test_labels: list[str]) -> list[str]:
    for k in range(24):
        Image.new("RGB", (40, 30), (10 * k, 100, 255 - 10 * k)).save(folder / f"{k}.png")
    split = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
    labels = ["ab"[k % 2] + ";c" for k in range(18)] + test_labels * 3
    rows = [f"{k}.png,{labels[k]},{split[k]}" for k in range(24)]
    (folder / "labels.csv").write_text("\n".join(["image,labels,split", *rows]) + "\n")
    return ["dataset=csv", f"dataset.file={folder}/labels.csv", "dataset.test_split=test", "runner.batch_size=4"]


def test_split_without_positives_is_refused_before_training(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [item for item in overrides if not item.startswith("dataset.")]
    monkeypatch.setattr(TrainStep, "__call__", None)
    with pytest.raises(DataError, match="csv/test: 6 images, none with a positive label"):
        fit([*kept, *write_csv(tmp_path, ["", ""])])


def test_test_split_is_reported_with_its_own_files(overrides: list[str], tmp_path: Path) -> None:
    kept = [item for item in overrides if not item.startswith("dataset.")]
    options = [*kept, *write_csv(tmp_path, ["a", "b"]), "metrics.save_predictions=true", "runner.max_steps=2"]
    folder = fit(options)
    result = json.loads((folder / "result.json").read_text())
    assert result["test"].keys() == {"val", "ema"}
    assert np.load(folder / "predictions_test.npz")["files"].tolist() == [f"{k}.png" for k in range(18, 24)]
    assert len((folder / "per_class_test.csv").read_text().splitlines()) == 1 + 3


def test_evaluation_needs_the_run_folder_alone_and_regroups_when_told(overrides: list[str], tmp_path: Path) -> None:
    first = fit([*overrides, "runner.max_steps=1"])
    weights = tmp_path / "weights.pt"
    prefix = "backbone.model."
    state = torch.load(first / "best.pt", weights_only=True)["model"]
    torch.save({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, weights)
    folder = fit([*overrides, "runner.max_steps=1", f"model.checkpoint={weights}"])
    result = json.loads((folder / "result.json").read_text())
    weights.unlink()
    again = evaluate(load_run(folder), folder)
    assert again is not None
    assert again["val"] == pytest.approx(result["val"], abs=1e-6)
    all_head = evaluate(load_run(folder, ["metrics.head_min=1", "metrics.medium_min=1"]), folder)
    assert all_head is not None
    assert all_head["val"]["map_head"] == pytest.approx(result["val"]["map"])
    assert "map_tail" not in all_head["val"]
    assert "map_tail" in result["val"]


def test_logits_of_nan_in_evaluation_are_named(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    features = Classifier.features

    def spoilt(self: Classifier, images: torch.Tensor) -> object:
        found = features(self, images)
        return found if self.training else found._replace(tokens=found.tokens * float("nan"))

    monkeypatch.setattr(Classifier, "features", spoilt)
    with pytest.raises(NonFiniteError, match=r"shapes/val: the raw weights give NaN for 24 of 24 images.*runner\.amp"):
        fit(overrides)


def test_second_process_in_a_run_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "id"
    code = (
        "import sys; from pathlib import Path; from mltrain.engine.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(MltrainError, match=f"process {holder.pid} on .* is in this run"),
            run_lock(folder, patience=0.2),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with run_lock(folder, patience=5):  # a killed process holds nothing
        pass


def test_rerun_deletes_its_own_folder_and_nothing_beside_it(overrides: list[str]) -> None:
    options = [*overrides, "runner.max_steps=1"]
    folder = fit(options)
    (folder / "old").write_text("of the earlier run")
    (folder.parent / "mine").write_text("not a run's")
    other = fit([*options, "seed=1"])
    fit([*options, "rerun=true"])
    assert not (folder / "old").exists()
    assert (folder.parent / "mine").exists()
    assert (other / "result.json").exists()


def test_corrupt_image_that_is_a_whole_micro_batch_is_skipped(overrides: list[str], tmp_path: Path) -> None:
    kept = [item for item in overrides if not item.startswith("dataset.")]
    options = write_csv(tmp_path, ["a", "b"])
    (tmp_path / "3.png").write_bytes(b"no image")
    settings = [
        *kept,
        *options,
        "data.on_corrupt=skip",
        "runner.batch_size=1",
        "runner.accumulate=4",
        "model.freeze_norm=true",
        "runner.epochs=1",
    ]
    result = json.loads((fit(settings) / "result.json").read_text())
    assert result["steps"] == 3
    assert len(result["corrupt_images"]) == 1


def test_no_minutes_between_checkpoints_means_at_the_end_of_epochs_only(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mltrain.engine.checkpoint import CheckpointFolder

    saved: list[int] = []
    save = CheckpointFolder.save

    def counted(self: CheckpointFolder, state: dict, name: str = "last") -> None:
        if name == "last":
            saved.append(state["step"])
        save(self, state, name)

    monkeypatch.setattr(CheckpointFolder, "save", counted)
    fit([*overrides, "runner.checkpoint_every_minutes=0"])
    assert saved == [5, 10]


def test_config_of_a_run_loads_again(overrides: list[str]) -> None:
    folder = fit([*overrides, "runner.max_steps=1"])
    assert load_run(folder) == load([*overrides, "runner.max_steps=1"])
