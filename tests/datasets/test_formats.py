"""Promises of every format of labels: it is read right, recognised, said, and its explicit options read the same."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from mltrain.config import load
from mltrain.config.build import instantiate
from mltrain.config.overrides import CONFIGS
from mltrain.config.signatures import locate
from mltrain.datasets.auto import READERS, auto, explicit
from mltrain.datasets.splits import Splits, check_files, check_splits
from mltrain.labels import LabelSet
from tests.datasets import more_formats as more_formats  # adds its cases
from tests.datasets.formats import CASES, LABELS, Case


def by_name(splits: Splits) -> dict[str, list[str]]:
    """All images of a data set, by file name, with their labels."""
    found = {}
    for labels in splits:
        for i in range(0 if labels is None else len(labels)):
            assert labels is not None
            positive = [name for name, target in zip(labels.class_names, labels.targets(i), strict=True) if target == 1]
            found[Path(labels.path(i)).name] = positive
    return found


def read(words: list[str]) -> Splits:
    """What `mltrain train WORDS` reads; faster than composing the whole config."""
    reader, options = config_of(words[0].removeprefix("dataset="))
    for word in words[1:]:
        override = OverridesParser.create().parse_override(word)
        key = override.key_or_group.removeprefix("dataset.")
        assert key in options, f"{key} is no option of {words[0]}"
        options[key] = override.value()
    splits: Splits = reader(**{**options, "name": "mine"})
    return splits


def config_of(group: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    options = yaml.safe_load((CONFIGS / "dataset" / f"{group}.yaml").read_text(encoding="utf-8"))
    options = options.get("dataset", options)
    return locate(options.pop("_target_")), options


def same(one: LabelSet | None, other: LabelSet | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.fingerprint(), one.image_paths, one.name) == (other.fingerprint(), other.image_paths, other.name)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return CASES[request.param](tmp_path / "my data")


def test_a_format_is_recognised_read_right_and_its_explicit_options_read_the_same(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    splits = auto(path=str(case.path), name="mine")
    assert by_name(splits) == case.expected
    assert splits.train.fully_labelled
    check_splits(splits)
    for labels in splits:
        if labels is not None:
            check_files(labels)
    said = [record.getMessage() for record in caplog.records if "; without auto: " in record.getMessage()]
    assert len(said) == 1
    words = shlex.split(said[0].partition("; without auto: ")[2])
    assert words[0] == f"dataset={case.group}"
    assert any(word.startswith("dataset.val_fraction=") for word in words) == case.held_out
    again = read(words)
    assert all(same(one, other) for one, other in zip(splits, again, strict=True))


def test_the_printed_options_work_on_the_command_line(tmp_path: Path) -> None:
    found = explicit(CASES["csv_of_chestxray14"](tmp_path / "it's mine").path)
    splits = instantiate(load([*shlex.split(found.command), "dataset.name=mine"]).dataset, "dataset")
    assert by_name(splits) == LABELS


def test_the_readers_of_auto_are_those_of_the_configs() -> None:
    for group, (reader, options) in READERS.items():
        target, config = config_of(group)
        assert target is reader
        assert all(config[key] == value for key, value in options.items()), group


def test_the_options_in_the_docs_are_those_of_the_readers() -> None:
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    table = text.partition("## Formats of labels")[2].partition("\n- ")[0]
    commands = [code.replace(r"\|", "|") for code in re.findall(r"`(dataset=[^`]+)`", table)]
    assert len(commands) > 20
    groups = set()
    for command in commands:
        group, *words = shlex.split(command)
        _, options = config_of(group.removeprefix("dataset="))
        overrides = OverridesParser.create().parse_overrides(words)
        assert {one.key_or_group.removeprefix("dataset.") for one in overrides} <= options.keys(), command
        groups.add(group.removeprefix("dataset="))
    years = {"coco", "voc0712", "voc2007", "voc2012", "lvis"}
    assert groups == set(READERS) - years, "every reader of auto is in the table"


def test_folds_draw_val_from_any_format(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = CASES["yolo_of_label_studio"](tmp_path).path
    options = {"_target_": "mltrain.datasets.auto.auto", "path": str(path), "val_fraction": None, "folds": 4}
    splits = [instantiate({**options, "fold": fold}, "dataset") for fold in range(4)]
    assert sorted(name for one in splits for name in one.val.files) == sorted(f"images/{name}" for name in LABELS)
    said = [text for text in caplog.messages if "; without auto: " in text]
    assert [text.rpartition("classes.txt ")[2] for text in said[:2]] == [
        "dataset.folds=4",
        "dataset.folds=4 dataset.fold=1",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["dataset.folds=3", "dataset.fold=2", "dataset.split_seed=4"],
        ["dataset.val_fraction=0.25", "dataset.stratify=true"],
        ["dataset.test_fraction=0.25", "dataset.split_seed=4"],
        ["dataset.val_fraction=0.25", "dataset.test_fraction=0.25"],
    ],
)
def test_what_draws_the_splits_is_printed_too(
    words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = CASES["json_map"](tmp_path).path

    def drawn(words: list[str]) -> Splits:
        splits: Splits = instantiate(load([*words, "dataset.name=mine"]).dataset, "dataset")
        return splits

    splits = drawn(["dataset=auto", f"dataset.path={path}", *words])
    (said,) = [text for text in caplog.messages if "; without auto: " in text]
    again = drawn(shlex.split(said.partition("; without auto: ")[2]))
    assert all(same(one, other) for one, other in zip(splits, again, strict=True))


def test_a_share_can_be_asked_for(tmp_path: Path) -> None:
    path = CASES["csv_lists"](tmp_path).path
    found = explicit(path, 0.5, 3)
    assert found.options["val_fraction"] == 0.5 and found.options["split_seed"] == 3
    assert len(auto(path=str(path), val_fraction=0.5).val) == 4
