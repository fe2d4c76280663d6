"""What TensorBoard is given, read back from the event files: curves, pictures, hyper-parameters."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mltrain.config.build import load
from mltrain.config.identity import relevant
from mltrain.engine.evaluator import Evaluation, Predictions
from mltrain.engine.tensorboard import TensorBoard
from mltrain.errors import Interrupted
from mltrain.labels import LabelSet, LabelStats
from mltrain.metrics.curves import counts_by_threshold
from mltrain.metrics.entries import KnownEntries
from mltrain.metrics.summary import summarize
from mltrain.pipeline.augment import EvalResize
from mltrain.report.board import Board, flattened, prediction_lines, sample_images
from tests.promises.runs import TINY, assert_same, fit, state, stop_at

pytest.importorskip("tensorboard")


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    found.Reload()
    return found


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    kept = [text for text in TINY if text != "logger.tensorboard=false"]
    return [*kept, f"paths.data={tmp_path_factory.mktemp('data')}", "logger.tensorboard_images=3"]


@pytest.fixture(scope="module")
def run(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five epochs of five steps."""
    return fit([*overrides, "runner.epochs=5", f"paths.runs={tmp_path_factory.mktemp('runs')}"])


def test_every_evaluation_has_pr_curves_of_all_classes_and_each_group(run: Path) -> None:
    found = events(run / "tensorboard")
    groups = [key.removeprefix("map_") for key in _result(run)["val"] if key in ("map_head", "map_medium", "map_tail")]
    tags = {f"{weights}/pr_{name}" for weights in ("val", "ema") for name in ("micro", *groups)}
    assert tags == {tag for tag in found.Tags()["tensors"] if "/pr_" in tag} and len(groups) >= 1
    for tag in tags:
        assert [event.step for event in found.Tensors(tag)] == [5, 10, 15, 20, 25]


def test_a_pr_curve_holds_the_counts_of_the_evaluation(tmp_path: Path) -> None:
    labels, stats, evaluation = _evaluation()
    board = _board(tmp_path, labels, stats, images=0)
    board.writer.resume(0)
    board(1, 7, evaluation, last=False)
    board.writer.close(failed=False)
    (event,) = events(tmp_path).Tensors("val/pr_micro")
    rows = np.array(event.tensor_proto.float_val).reshape(6, 127)
    assert evaluation.predictions is not None
    logits, targets = evaluation.predictions.logits["val"], evaluation.predictions.targets
    tp, fp = counts_by_threshold(logits, targets, groups={})["micro"]
    np.testing.assert_array_equal(rows[0], tp)
    np.testing.assert_array_equal(rows[1], fp)
    np.testing.assert_array_equal(rows[0] + rows[3], np.full(127, (targets == 1).sum()))
    np.testing.assert_array_equal(rows[1] + rows[2], np.full(127, (targets == 0).sum()))
    np.testing.assert_allclose(rows[5], tp / tp[0], rtol=1e-6)
    assert rows[4, 0] == pytest.approx(tp[0] / (tp[0] + fp[0]))
    assert np.isfinite(rows).all()


def test_pictures_are_few_however_long_the_run_and_of_the_same_images(run: Path) -> None:
    found = events(run / "tensorboard")
    tags = ["predictions/00", "predictions/01", "predictions/02"]
    assert sorted(found.Tags()["images"]) == ["best/00", "best/01", "best/02", *tags]
    assert [event.step for event in found.Images("best/00")] == [26], "after the last step"
    for tag in tags:
        shown = found.Images(tag)
        assert [event.step for event in shown] == [5, 10, 20, 25], "evaluations 1, 2, 4 and the last"
        photos = []
        for event in shown:
            picture = Image.open(io.BytesIO(event.encoded_image_string))
            assert picture.size == (event.width, event.height) == (224, picture.height)
            photos.append(np.asarray(picture.crop((0, 0, 224, 200))))
        assert all(np.abs(photo.astype(int) - photos[0]).max() < 8 for photo in photos), "only the words change"


def test_the_hyper_parameters_and_final_figures_of_a_run_are_one_row_of_the_hparams_tab(run: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    found = events(run / "tensorboard")
    assert not [path for path in (run / "tensorboard").iterdir() if path.is_dir()], "one run, not two"
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    assert hparams["loss"].string_value == "asl" and hparams["loss.gamma_neg"].number_value == 4.0
    assert hparams["runner.epochs"].number_value == 5 and hparams["runner.channels_last"].string_value == "true"
    assert hparams["runner.max_steps"].string_value == "null" and hparams["mix"].string_value == "none"
    assert not [key for key in hparams if key.startswith(("paths", "logger", "data.num_workers", "name"))]
    assert metadata.parse_session_end_info_plugin_data(
        found.SummaryMetadata("_hparams_/session_end_info").plugin_data.content
    ).status
    result = _result(run)
    best = result[result["best"]["weights"]]
    tags = [tag for tag in found.Tags()["scalars"] if tag.startswith(("best", "final"))]
    figures = {tag: found.Scalars(tag)[0].value for tag in tags}
    assert figures["best/map"] == pytest.approx(best["map"], rel=1e-6)
    assert figures["final/CF1"] == pytest.approx(best["CF1"], rel=1e-6)
    assert figures["final/epoch"] == result["best"]["epoch"]
    assert all(len(found.Scalars(tag)) == 1 for tag in figures)
    assert sorted(found.Tags()["scalars"])[0] == "best/map", "the first five are the columns of the tab"


def test_tensorboards_own_reader_shows_what_differs_between_runs(run: Path, overrides: list[str]) -> None:
    """`differs` is worked out by TensorBoard from the runs under one folder, as the tab does."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    runs = run.parents[2]
    fit([*overrides, "loss=bce", "runner.epochs=5", "seed=3", f"paths.runs={runs}"])
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(runs))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(runs))
    context, request = Context(TBContext(data_provider=provider)), RequestContext()
    content = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(request, "", True, content, [])
    assert {info.name for info in experiment.hparam_infos if info.differs} == {"loss", "seed"}
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert {"best/map", "final/OF1", "final/macro_F1", "final/seconds"} <= metrics
    assert experiment.metric_infos[0].name.tag == "best/map"
    assert (runs / "latest").is_file()
    assert len(multiplexer.Runs()) == 2, "each run once, the last too"


def test_a_resumed_run_records_what_an_uninterrupted_one_does(
    run: Path, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*overrides, "runner.epochs=5", f"paths.runs={tmp_path}"]
    for stop in (8, 20):  # inside an epoch, and between one and its evaluation
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            stop_at(patch, stop)
            fit(words)
    folder = fit(words)
    (folder / "result.json").unlink()  # killed at its very end: it finishes once more
    assert fit(words) == folder
    whole, resumed = events(run / "tensorboard"), events(folder / "tensorboard")
    for tag in whole.Tags()["images"]:
        assert [(e.step, e.encoded_image_string) for e in resumed.Images(tag)] == [
            (e.step, e.encoded_image_string) for e in whole.Images(tag)
        ]
    for tag in whole.Tags()["tensors"]:
        assert [(e.step, e.tensor_proto) for e in resumed.Tensors(tag)] == [
            (e.step, e.tensor_proto) for e in whole.Tensors(tag)
        ]
    for tag in ("best/map", "final/seconds"):
        assert len(resumed.Scalars(tag)) == 1, "a run that finishes twice has one final figure"
    assert_same(state(folder), state(run))


def test_a_run_is_the_same_with_and_without_tensorboard(run: Path, overrides: list[str], tmp_path: Path) -> None:
    words = [*overrides, "runner.epochs=5", "logger.tensorboard=false", f"paths.runs={tmp_path}"]
    assert_same(state(fit(words)), state(run))


def test_curves_and_pictures_can_be_left_out(overrides: list[str], tmp_path: Path) -> None:
    off = ["logger.tensorboard_curves=false", "logger.tensorboard_images=0", f"paths.runs={tmp_path}"]
    folder = fit([*overrides, *off])
    found = events(folder / "tensorboard")
    assert found.Tags()["images"] == []
    assert [tag for tag in found.Tags()["tensors"] if "hparams" not in tag] == ["custom_scalars__config__"]


def test_charts_lay_the_groups_side_by_side(run: Path) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2

    (event,) = events(run / "tensorboard").Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    drawn = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert drawn["mAP: raw and EMA"] == ["^val/map$", "^ema/map$"]
    scalars = events(run / "tensorboard").Tags()["scalars"]
    for patterns in drawn.values():
        assert all(sum(bool(re.search(pattern, tag)) for tag in scalars) == 1 for pattern in patterns)


def test_the_sample_goes_from_the_most_to_the_least_frequent_label() -> None:
    positives = [[0]] * 80 + [[0, 1]] * 15 + [[2]] * 4 + [[]]
    labels = _labels(positives)
    chosen = sample_images(labels, LabelStats.from_labels(labels), 9)
    assert len(chosen) == 9 and 99 not in chosen, "the image without a label is no example"
    assert {tuple(labels.targets(int(i))) for i in chosen} >= {(1, 0, 0), (1, 1, 0), (0, 0, 1)}
    assert len(sample_images(labels, LabelStats.from_labels(labels), 500)) == 99
    assert len(sample_images(_labels([[]] * 3), LabelStats.from_labels(labels), 2)) == 2


def test_lines_tell_found_missed_wrong_and_unknown() -> None:
    names, targets = ["a", "b", "c", "d", "e"], np.array([1, 1, 0, -1, 0])
    lines = prediction_lines(names, np.array([0.9, 0.2, 0.8, 0.7, 0.1]), targets, threshold=0.5)
    assert lines == [("hit", "✓ 0.90 a"), ("missed", "✗ 0.20 b"), ("wrong", "+ 0.80 c"), ("unknown", "? 0.70 d")]
    only = prediction_lines(names, np.array([0.3, 0.1, 0.4, 0.1, 0.1]), targets, threshold=0.5, best_only=True)
    assert only == [("missed", "✗ 0.30 a"), ("missed", "✗ 0.10 b"), ("wrong", "+ 0.40 c")]
    assert prediction_lines(names, np.zeros(5), np.zeros(5), threshold=0.5)[0][0] == "text"
    many = prediction_lines([str(k) for k in range(30)], np.ones(30), np.ones(30), threshold=0.5)
    assert len(many) == 8 and many[-1] == ("text", "… and 23 more")


def test_a_split_of_which_only_known_entries_are_kept_shows_these(tmp_path: Path) -> None:
    labels, stats, evaluation = _evaluation(unknown=0.6)
    assert evaluation.predictions is not None
    logits, targets = evaluation.predictions.logits["val"], evaluation.predictions.targets
    known = Evaluation(None, evaluation.summaries, {"val": KnownEntries.from_batch(logits, targets)})
    board = _board(tmp_path, labels, stats, images=6)
    for k, index in enumerate(board.shown):
        classes, probabilities, own = board._predicted(known, "val", k)
        np.testing.assert_array_equal(classes, np.flatnonzero(targets[index] >= 0))
        np.testing.assert_allclose(probabilities, logits[index].sigmoid().numpy()[classes])
        np.testing.assert_array_equal(own, targets[index][classes])


def test_a_config_is_flat_short_and_without_what_cannot_change_the_result() -> None:
    flat = flattened(relevant(load(["loss=bce", "optimizer=sgd", "head=ml_decoder"])))
    assert flat["loss"] == "bce" and flat["head"] == "ml_decoder" and flat["ema.decay"] == 0.9997
    assert not any(isinstance(value, dict) or value is None for value in flat.values())
    assert not [key for key in flat if key.endswith("_target_") or key.startswith(("paths", "logger"))]


def _result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def _labels(positives: list[list[int]], root: str = "") -> LabelSet:
    files = [f"{k}.jpg" for k in range(len(positives))]
    return LabelSet.from_lists(name="val", root=root, files=files, class_names=["a", "b", "c"], positives=positives)


def _evaluation(unknown: float = 0.0) -> tuple[LabelSet, LabelStats, Evaluation]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(40, 6, generator=generator)
    targets = (torch.rand(40, 6, generator=generator) < 0.4).to(torch.int8)
    targets[torch.rand(40, 6, generator=generator) < unknown] = -1
    labels = LabelSet.from_dense(
        name="val", root="", files=[f"{k}" for k in range(40)], class_names=list("abcdef"), targets=targets.numpy()
    )
    evaluation = Evaluation(Predictions({"val": logits}, targets), {"val": summarize(logits, targets)})
    return labels, LabelStats.from_labels(labels), evaluation


def _board(folder: Path, labels: LabelSet, stats: LabelStats, **options: Any) -> Board:
    make: Callable[..., Board] = Board
    return make(TensorBoard(folder), labels, EvalResize(image_size=32), stats, **options)


def test_curves_of_known_entries_are_those_of_all_predictions(tmp_path: Path) -> None:
    labels, stats, evaluation = _evaluation(unknown=0.6)
    assert evaluation.predictions is not None
    entries = KnownEntries.from_batch(evaluation.predictions.logits["val"], evaluation.predictions.targets)
    recorded = []
    for name, given in (("all", evaluation), ("known", Evaluation(None, evaluation.summaries, {"val": entries}))):
        board = _board(tmp_path / name, labels, stats, images=0)
        board.writer.resume(0)
        board(1, 7, given, last=True)
        board.writer.close(failed=False)
        found = events(tmp_path / name)
        recorded.append({tag: found.Tensors(tag)[0].tensor_proto for tag in found.Tags()["tensors"]})
    assert recorded[0] == recorded[1] and "val/pr_micro" in recorded[0]
