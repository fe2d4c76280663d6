"""tools/evaluate.py never reports on the images it tuned on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mltrain.commands.evaluate import Options, evaluate
from mltrain.config.compose import load_run
from mltrain.config.overrides import command_options
from mltrain.errors import ConfigError
from tests.promises.runs import ROOT, coloured_run, execute

CLASSES = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a dataset of 24 training, 12 validation and 12 test images."""
    return coloured_run(tmp_path_factory.mktemp("data"))


def tuned(run: Path, **options: object) -> dict:
    evaluate(load_run(run), run, Options(tune="thresholds", **options))  # type: ignore[arg-type]
    return json.loads((run / "tuning.json").read_text())


def test_the_tool_tunes_on_validation_and_reports_on_test(run: Path) -> None:
    done = execute([sys.executable, str(ROOT / "tools" / "evaluate.py"), str(run), "tune=thresholds"])
    content = json.loads((run / "tuning.json").read_text())
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert (content["tuned_on"]["split"], content["reported_on"]["split"]) == ("val", "test")
    assert content["tuned_on"]["fingerprint"] != content["reported_on"]["fingerprint"]
    for name in ("val", "ema"):
        found = content["weights"][name]
        assert found["figures_before"] == evaluation["test"][name]
        assert len(found["cuts"]) == CLASSES
        assert f"{found['figures']['macro_F1']:.2f}" in done.stderr
    assert str(run / "tuning.json") in done.stderr


def test_without_images_of_its_own_to_report_on_tuning_is_refused(run: Path) -> None:
    cfg = load_run(run)
    table = Path(cfg.dataset.file)
    text = table.read_text(encoding="utf-8")
    (run / "tuning.json").unlink(missing_ok=True)
    same = table.with_name("same.csv")
    same.write_text(text.replace("40.png", "link.png"))
    table.with_name("link.png").symlink_to(table.with_name("30.png"))
    without_test = table.with_name("without_test.csv")
    without_test.write_text(
        "".join(line for line in text.splitlines(keepends=True) if not line.rstrip().endswith(",test"))
    )
    for file, split, reason in (
        (without_test, None, "no test split"),
        (
            same,
            "test",
            "of 12 images of csv/test, 1 can be found in csv/val too.*30.png: what is tuned on one must not be",
        ),
    ):
        cfg.dataset.file, cfg.dataset.test_split = str(file), split
        with pytest.raises(ConfigError, match=f"{reason}.*tune_folds=5"):
            evaluate(cfg, run, Options(tune="thresholds"))
    assert not (run / "tuning.json").exists()


def test_folds_report_on_validation(run: Path) -> None:
    content = tuned(run, tune_folds=3, tune_min_positives=1)
    assert content["folds"] == 3
    assert content["tuned_on"] == content["reported_on"]
    assert all(content["weights"]["val"]["own"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": "off", "tune_folds": 3}, "tune_folds=3: nothing is tuned"),
        ({"tune": "threshold", "tune_metric": "CF1"}, "only tune=logit_adjustment takes a metric"),
        ({"tune": "threshold", "tune_min_positives": 3}, "only tune=thresholds tunes classes apart"),
        ({"tune": "threshold", "tune_folds": 99}, "has 12 images"),
        ({"tune": "logit_adjustment", "tune_metric": "words_F1"}, "words_k=5"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(run: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(load_run(run), run, Options(**options))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tune=treshold", "did you mean tune=threshold"),
        ("tun=threshold", "did you mean tune=VALUE"),
        ("tune_folds=1", "at least 2"),
        ("tune_folds=two", "must be int"),
        ("tune=threshold,thresholds", "one value"),
    ],
)
def test_mistyped_options_of_the_tool_get_an_answer(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command_options(Options, [word])


def test_other_words_are_left_to_the_config() -> None:
    words = ["seed=3", "dataset.root=x", "lr=1"]
    assert command_options(Options, [*words, "tune=threshold"]) == (Options(tune="threshold"), words)
