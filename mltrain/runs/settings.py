"""Read a run's config for comparison: completed with defaults, and the settings that can change results."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mltrain.config.identity import relevant
from mltrain.config.overrides import CONFIGS
from mltrain.config.schema import DEFAULTS_FOR_OLDER_RUNS, INJECTED, SECTIONS, RootOptions, section_options
from mltrain.config.signatures import UNKNOWN, TargetError, read_signature
from mltrain.engine.run_folder import read_config
from mltrain.safe_yaml import LOADER

WEIGHTS_FILE = "model.safetensors"
CLASSES_FILE = "classes.txt"
EMBEDDINGS_FILE = "embeddings.npz"


def load_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `(config, settings)` of a run folder, as `mltrain.report.runs.read_runs` needs them.

    Options that came after the run get the value for older runs, so that older runs compare with newer ones. The config
    is not checked: a run whose code is gone can still be compared. Takes about 5 ms per run.

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
    # The identity leaves these out; a table shows them beside other values.
    for key, value in DEFAULTS_FOR_OLDER_RUNS.items():
        settings.setdefault(key, option_name(key, value) if isinstance(value, dict) else value)
    return config, settings


def option_name(section: str, component: dict[str, Any]) -> str:
    """Return the component's name on the command line (`asl` of `loss=asl`), as far as its options tell.

    It is the file of configs/ that has its target; of several, the one named like the target (`adamw`, whatever its
    options), or else the one with the nearest options. A data set has its option `name`, a model its file or name. A
    component without a file has the name of its class: `class_aware`.
    """
    target = component.get("_target_")
    if target is None:
        return "none"
    if section == "dataset":
        return str(component.get("name") or str(target).split(".")[-2])
    files = [
        (sum(component.get(key) != value for key, value in given.items()), -len(given), stem)
        for stem, given in _options(section)
        if given["_target_"] == target and ("name" not in given or given["name"] == component.get("name"))
    ]
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(target).rpartition(".")[2]).lower()
    if files:
        return words if any(words == stem for *_, stem in files) else min(files)[2]  # of equals, what states most
    return str(component.get("name") or words.removesuffix(f"_{section}"))


@cache
def _options(section: str) -> list[tuple[str, dict[str, Any]]]:
    """Return name and plain values of each file of a group in configs/."""
    found = []
    for path in sorted((CONFIGS / section).glob("*.yaml")):
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
        if isinstance(tree, dict) and isinstance(tree.get("_target_"), str):
            found.append((path.stem, {k: v for k, v in tree.items() if "${" not in str(v)}))
    return found


def _completed(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the config with the defaults of options that it does not have yet."""
    config: dict[str, Any] = {key: option.default for key, option in section_options(RootOptions).items()} | tree
    for name, section in SECTIONS.items():
        defaults = {key: option.default for key, option in section_options(section).items()}
        given = config.get(name)
        config[name] = defaults | (given if isinstance(given, dict) else {})
    for name in INJECTED:
        config.setdefault(name, dict(DEFAULTS_FOR_OLDER_RUNS.get(name, {"_target_": None})))
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
