"""Names of other code: counterparts work as they stand, the page has the tables, typed names get their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mltrain import cli
from mltrain.commands.train import COMMAND as TRAIN
from mltrain.config.compose import load
from mltrain.config.other_code import codes, hint, markdown
from mltrain.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ROWS = [row for code in codes() for row in code.rows]


def test_every_counterpart_is_an_argument_that_a_training_takes() -> None:
    together: list[dict[str, str]] = []  # arguments that go together, so that few configs are composed
    arguments = [row.ours.format(row.eg) for row in ROWS if row.ours is not None]
    for text in arguments + [code.recipe.removeprefix("mltrain train ") for code in codes()]:
        given = dict(word.split("=", 1) for word in text.split())
        fits = (batch for batch in together if all(batch.get(key, value) == value for key, value in given.items()))
        batch = next(fits, None)
        if batch is None:
            together.append(batch := {})
        batch |= given
    for batch in together:
        load([f"{key}={value}" for key, value in sorted(batch.items(), key=lambda item: "." in item[0])])
    assert len(arguments) > 60 and all(("{}" in str(row.ours)) == bool(row.eg) for row in ROWS)


def test_a_name_without_a_counterpart_says_why() -> None:
    assert all(row.note for row in ROWS if row.ours is None)


def test_the_page_has_the_tables() -> None:
    assert markdown() in (ROOT / "docs/from_other_code.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model-name", "tresnet_l"], "ASL's --model-name is model=tresnet_l here"),
        (["--model_name=tresnet_l"], "ASL's --model_name is model=tresnet_l here"),
        (["--thre", "0.8", "-j", "4"], "(?s)metrics.threshold=0.8 here.*ASL's -j is data.num_workers=4 here"),
        (["batch-size=64"], "batch-size=64: ASL's --batch-size is runner.batch_size=64 here"),
        (["work_dir=out"], "work_dir=out: Distribution-Balanced Loss's work_dir is paths.runs=out here"),
        (["lr_config.step=[5,7]"], r"is schedule=multistep schedule.milestones='\[5,7\]' here"),
        (["ghmc.bins=30", "loss=bce"], "GHM's ghmc.bins is loss=ghm loss.bins=30 here"),
        (["ghmr.mu=0.02"], "GHM's ghmr.mu has no counterpart here: GHM-R weights the regression of boxes"),
        (["resume_from=a.pth"], "no counterpart here: repeat the command"),
        (["eta_min=1e-6"], "final is a share of the peak: eta_min / lr"),
        (["--use-ml-decoder"], "ML-Decoder's --use-ml-decoder is head=ml_decoder here"),
    ],
)
def test_a_name_of_theirs_typed_at_ours_gets_its_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cli.execute(TRAIN, words)


def test_our_own_names_are_no_hints() -> None:
    load(["runner.batch_size=64", "loss.gamma_neg=4", "dataset=coco", "dataset.root=/data"])
    assert hint("runner.batch_size") == "" and hint("model") == ""
