"""Runs for comparison: a run folder's config, completed, and the settings in it that can change results."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mltrain.config.compose import CONFIGS
from mltrain.config.identity import relevant
from mltrain.config.schema import FRAME, INJECTED, LATER, Base, frame_options
from mltrain.config.signatures import UNKNOWN, TargetError, read_signature
from mltrain.engine.run_folder import read_config

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `mltrain.report.runs.read_runs` asks of a run: `(config, settings)`.

    Options that came after the run have the value that stands for their absence, so that older runs compare with newer
    ones. The config is not judged: a run whose code is gone can still be compared. About 5 ms a run.

    Raises:
        DataError: config.yaml cannot be read.
    """
    config = _completed(read_config(folder))
    kept = relevant(config)
    settings: dict[str, Any] = {}
    for key, value in kept.items():
        if key in INJECTED and isinstance(value, dict):
            settings[key] = option_name(key, value)
            if value.get("_target_") is not None:
                settings |= {f"{key}.{option}": given for option, given in value.items()}
        elif isinstance(value, dict):
            settings |= {f"{key}.{option}": given for option, given in value.items()}
        else:
            settings[key] = value
    for key, value in LATER.items():  # the identity leaves them out; a table shows them beside other values
        settings.setdefault(key, option_name(key, value) if isinstance(value, dict) else value)
    return config, settings


def option_name(section: str, component: dict[str, Any]) -> str:
    """What the component is called on the command line (`loss=asl`), as far as its options say.

    It is the file of configs/ that has its target: of several the one named like the target (`adamw`, whatever its
    options), else the one whose options come nearest. A data set goes by its option `name`, a model by its file or
    name. What no file describes goes by the name of its class: `class_aware`.
    """
    target = component.get("_target_")
    if target is None:
        return "none"
    if section == "dataset":
        return str(component.get("name") or str(target).split(".")[-2])
    files = [
        (sum(component.get(key) != value for key, value in given.items()), stem)
        for stem, given in _options(section)
        if given["_target_"] == target and ("name" not in given or given["name"] == component.get("name"))
    ]
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(target).rpartition(".")[2]).lower()
    if files:
        return words if any(words == stem for _, stem in files) else min(files)[1]
    return str(component.get("name") or words.removesuffix(f"_{section}"))


@cache
def _options(section: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and plain values of each file of a group in configs/."""
    found = []
    for path in sorted((CONFIGS / section).glob("*.yaml")):
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        if isinstance(tree, dict) and isinstance(tree.get("_target_"), str):
            found.append((path.stem, {k: v for k, v in tree.items() if "${" not in str(v)}))
    return found


def _completed(tree: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of options that the run's config does not hold yet."""
    config: dict[str, Any] = {key: option.default for key, option in frame_options(Base).items()} | tree
    for name, section in FRAME.items():
        defaults = {key: option.default for key, option in frame_options(section).items()}
        given = config.get(name)
        config[name] = defaults | (given if isinstance(given, dict) else {})
    for name in INJECTED:
        config.setdefault(name, dict(LATER.get(name, {"_target_": None})))
        component = config[name]
        target = component.get("_target_") if isinstance(component, dict) else None
        if isinstance(target, str) and target.startswith("mltrain."):
            try:
                parameters = read_signature(target).parameters
            except TargetError:  # the class is gone, or was renamed
                continue
            known = {key: item.default for key, item in parameters.items() if item.default is not UNKNOWN}
            known = {key: value for key, value in known.items() if key not in INJECTED[name]}
            config[name] = known | component
    return config
