"""Promises of configs/dataset: every file fits its function, and without its data it says what is missing."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mltrain.config.schema import INJECTED
from mltrain.errors import DataError

FOLDER = Path(__file__).parents[2] / "configs" / "dataset"
# fmt: off
OURS = (
    "shapes", "coco", "coco2017", "voc2007", "voc2012", "voc0712", "voc_mlt", "coco_mlt", "csv", "nuswide",
    "nuswide_1k", "nuswide_zsl", "nuswide_csv", "openimages", "lvis", "vg500", "folder", "list", "mnist", "cifar10",
    "cifar100", "digits", "nuswide_zsl_csv", "auto", "json", "cvat", "celeba", "coco_files", "voc_files", "yolo",
    "webdataset", "parquet", "hf", "chestxray14", "class_lists", "labelme",
)
# fmt: on


def load(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    config = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    config = config.get("dataset", config)  # shapes is a global package: it brings settings of other sections too
    module, _, function = config.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), function), config


@pytest.mark.parametrize("name", OURS)
def test_a_config_shows_every_option_with_its_default(name: str) -> None:
    function, config = load(name)
    given = INJECTED["dataset"]  # by the program
    parameters = {k: v for k, v in inspect.signature(function).parameters.items() if k not in given}
    assert list(config) == list(parameters)
    own = {"name", "year", "keep_unlabelled"} | ({"labels"} if name in ("nuswide_1k", "nuswide_zsl") else set())
    own |= {"unseen"} if name == "nuswide_zsl_csv" else set()
    for key, parameter in parameters.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if parameter.default is not inspect.Parameter.empty and key not in own:
            assert config[key] == parameter.default, key
    assert config["name"] == name


@pytest.mark.parametrize("name", [name for name in OURS if name not in ("shapes", "digits", "hf")])
def test_without_its_data_a_config_says_what_is_expected_where(name: str, tmp_path: Path) -> None:
    function, config = load(name)
    key = "path" if name == "auto" else "file" if "root" not in config or config["root"] is None else "root"
    assert config[key].startswith("${paths.data}/")
    config[key] = config[key].replace("${paths.data}", str(tmp_path))
    with pytest.raises(DataError) as error:
        function(**config)
    message = str(error.value)
    assert message.startswith(f"{name}: ") and f"missing  {config[key]}" in message and f"dataset.{key}=" in message
