"""No option takes NaN, an infinity or a value of another kind, and none answers it with a traceback.

The cases are made from the configs and signatures, so that they hold for every option that will be added.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import timm
from omegaconf import OmegaConf
from torch import nn

from mltrain.config.build import instantiate
from mltrain.config.check import find_problems
from mltrain.config.compose import load
from mltrain.config.overrides import CONFIGS
from mltrain.config.schema import INJECTED, SECTIONS, RootOptions, section_options
from mltrain.config.signatures import locate, read_signature
from mltrain.config.types import Atom, Items, Kind, OneOf
from mltrain.errors import ConfigError, MltrainError
from mltrain.labels import LabelSet, LabelStats
from mltrain.models.backbone import create_backbone
from mltrain.models.classifier import Classifier
from mltrain.models.heads import GlobalAveragePool

NOT_FINITE = [math.nan, math.inf, -math.inf, 1e308, 10**400, [math.nan], {"x": math.inf}]
ODD: list[Any] = [-1, 0, 3.4e38, -1.5, True, "", "x", [], {}, [1], [-1.0, 0.0], {"a": 1}]
COMPONENTS: dict[str, Any] = {
    f"{path.parent.name}/{path.stem}": OmegaConf.to_container(OmegaConf.load(path))
    for path in sorted(CONFIGS.glob("*/*.yaml"))
    if path.parent.name in INJECTED
}
CLASSES = 20


def plain(name: str) -> dict[str, Any]:
    """The section of a config file without interpolations; those of other sections are left out."""
    section, tree = name.split("/")[0], COMPONENTS[name]
    tree = tree if "_target_" in tree else tree[section]  # a file of the global package
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if (isinstance(value, str) and "${" in value) or value == "???":
            value = {"epochs": 4, "root": "/nowhere", "file": "/nowhere/a.csv", "name": "test_byobnet"}.get(key, "x")
        if key == "_target_" or key in read_signature(tree["_target_"]).parameters:
            found[key] = value
    return found


def options(section: str, target: str) -> list[str]:
    return [key for key in read_signature(target).parameters if key not in INJECTED[section]]


NAMES = [name for name, tree in COMPONENTS.items() if "_target_" not in tree or tree["_target_"] is not None]
TARGETS = {plain(name)["_target_"]: name for name in NAMES}


@functools.cache
def config() -> dict[str, Any]:
    tree: Any = OmegaConf.to_container(load())
    return tree


def refused(tree: dict[str, Any]) -> set[str]:
    """The keys that the check of a config refuses."""
    _, problems = find_problems(OmegaConf.create(tree))
    return {text.split("=")[0].split(": ")[0] for text in problems}


@pytest.mark.parametrize("name", NAMES)
def test_no_option_of_a_component_takes_a_number_that_is_not_finite(name: str) -> None:
    section, given = name.split("/")[0], plain(name)
    keys = options(section, given["_target_"])
    for value in NOT_FINITE:
        tree = {**config(), section: {**given, **dict.fromkeys(keys, value)}}
        assert {f"{section}.{key}" for key in keys} <= refused(tree), value


@pytest.mark.parametrize("section", ["", *SECTIONS])
def test_no_built_in_option_takes_a_number_that_is_not_finite(section: str) -> None:
    described = section_options(SECTIONS[section] if section else RootOptions)
    for value in [*NOT_FINITE, *ODD]:
        odd = dict.fromkeys(described, value)
        found = refused({**config(), **({section: odd} if section else odd)})
        if value not in ODD:
            expected = {f"{section}.{key}".lstrip(".") for key in described} - {"paths.allow_targets"}
            assert expected <= found, value


def test_every_built_in_number_has_a_range() -> None:
    for section in (RootOptions, *SECTIONS.values()):
        for key, option in section_options(section).items():
            assert not is_number(option.kind) or option.least is not None, key


def is_number(kind: Kind) -> bool:
    if isinstance(kind, OneOf):
        return any(map(is_number, kind.options))
    return (isinstance(kind, Atom) and kind.type in (int, float)) or (isinstance(kind, Items) and is_number(kind.item))


# -- components that are built ---------------------------------------------------------------------------------------


@functools.cache
def injected() -> dict[str, Any]:
    names = [str(k) for k in range(CLASSES)]
    labels = LabelSet.from_lists(
        name="l",
        root="",
        files=[str(k) for k in range(2 * CLASSES)],
        class_names=names,
        positives=[[k % CLASSES] for k in range(2 * CLASSES)],
    )
    backbone = create_backbone(name="test_byobnet", image_size=32)
    return {
        "labels": labels,
        "stats": LabelStats.from_labels(labels),
        "seed": 0,
        "class_costs": None,
        "num_classes": CLASSES,
        "class_names": labels.class_names,
        "in_features": 32,
        "image_size": 32,
        "steps_per_epoch": 10,
        "need_val": True,
        "need_train": True,
        "drawn": "",
        "model": Classifier(backbone, GlobalAveragePool(backbone.num_features, CLASSES)),
    }


def small(name: str, folder: Path) -> dict[str, Any]:
    """The section of a config file, of a size that is built in milliseconds and that downloads nothing."""
    given = plain(name)
    tiny = {"root": str(folder), "num_train": 2, "num_val": 2, "image_size": 32, "name": given.get("name")}
    if name.startswith("model/"):
        tiny |= {"name": "test_byobnet", "pretrained": False}
    if name == "partial/unseen":
        tiny["classes"] = ["1"]
    parameters = read_signature(given["_target_"]).parameters
    fixed = INJECTED[name.split("/")[0]]
    return {**given, **{k: v for k, v in tiny.items() if k in parameters and k not in fixed and v is not None}}


@pytest.mark.parametrize("target", TARGETS)
def test_a_value_of_another_kind_or_range_is_a_message(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timm, "list_models", functools.cache(timm.list_models))  # it takes most of a backbone's time
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # nothing is downloaded
    section = TARGETS[target].split("/")[0]
    given = small(TARGETS[target], tmp_path)
    arguments = {key: injected()[key] for key in INJECTED[section]}
    for key in options(section, target):
        for value in [*NOT_FINITE, *ODD]:
            if (key, value) == ("pretrained", True):  # it is right, and downloads
                continue
            try:
                built = instantiate({**given, key: value}, section, **arguments)
            except MltrainError as error:
                assert str(error)
            else:
                assert built is not None
                assert value in ODD, f"{key}={value} was taken"


@pytest.mark.parametrize("target", [name for name in TARGETS if "datasets" not in name and "backbone" not in name])
def test_a_constructor_that_checks_a_range_refuses_nan(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Python too, where nothing checks types: a comparison written the wrong way round lets NaN pass."""
    monkeypatch.chdir(tmp_path)
    section, signature = TARGETS[target].split("/")[0], read_signature(target)
    given = {key: value for key, value in small(TARGETS[target], tmp_path).items() if key != "_target_"}
    given |= {key: injected()[key] for key in INJECTED[section] if key in signature.parameters}
    taken = []
    for key in options(section, target):
        kind = signature.parameters[key].kind
        if not kind.accepts(0.5):
            continue
        outside = [value for value in (-1.0, 2.0, 0.0, 1e30) if not is_taken(target, {**given, key: value})]
        if outside:
            taken += [f"{key}={value}" for value in NOT_FINITE[:3] if is_taken(target, {**given, key: value})]
    assert taken == []


def is_taken(target: str, arguments: dict[str, Any]) -> bool:
    try:
        locate(target)(**arguments)
    except (ValueError, ConfigError, OverflowError):
        return False
    return True


def test_options_of_torch_are_finite_too() -> None:
    with pytest.raises(ConfigError, match=r"loss\.eps=nan: .*finite"):
        instantiate({"_target_": "torch.nn.PoissonNLLLoss", "eps": math.nan}, "loss")
    assert isinstance(instantiate({"_target_": "torch.nn.BCEWithLogitsLoss"}, "loss"), nn.Module)
