"""Turn overrides into a checked config: Hydra composes, `check` checks, and every problem is reported in one form.

An override `a.b=1` is handed to Hydra as `++a.b=1`, so that it can also set an option that the YAML file leaves at its
default. `check_config` then says whether there is such an option, as for a key in a file.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mltrain.config.check import UNSET, check_config, find_problems, message
from mltrain.config.class_tokens import resolve_tokens
from mltrain.config.identity import default_name, names_folder
from mltrain.config.origin import Origin
from mltrain.config.overrides import EXPERIMENT, Scan, Source, granted_packages, parse_override, scan_overrides
from mltrain.config.own_code import NAMES
from mltrain.errors import ConfigError
from mltrain.safe_yaml import check_yaml
from mltrain.text import nearest, spell

log = logging.getLogger(__name__)
_AMP_ASKED = "runner_amp_asked"  # flag of a config: an override of `load_run` set runner.amp


def load(
    overrides: Sequence[str] = (), *, source: Source | None = None, allow_targets: Sequence[str] = ()
) -> DictConfig:
    """Compose and check the config that `mltrain train OVERRIDES` would run. Raises ConfigError with all problems.

    `allow_targets` are packages that `_target_` may name too, besides those of an override `paths.imports=[...]`.
    """
    source = source or Source()
    scan = scan_overrides(overrides, source, imports=allow_targets)
    composed, problems = None, list(scan.problems)
    try:
        composed = compose_with_hydra(scan.overrides, source)
        if scan.choices and scan.experiments:
            _replace_chosen_sections(composed, scan, source)
    except RecursionError:
        chosen = ", ".join(text.lstrip("+") for text in scan.experiments) or source.name
        problems.append(f"{chosen}: its list of defaults leads back to itself; remove one entry of the circle")
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        problems.append(explain(error))
    if composed is None:
        raise ConfigError(message(problems))
    choices = dict(composed.hydra.runtime.choices)
    with open_dict(composed):
        del composed["hydra"]
        resolve_tokens(composed)
    granted = [*allow_targets, *granted_packages(overrides)]
    checked, found = find_problems(composed, allow_targets=granted, origin=Origin(overrides, choices, source))
    problems += [text for text in found if text.split(".")[0].split("=")[0].split(":")[0] not in scan.invalid_groups]
    if problems:
        raise ConfigError(message(problems))
    _expand_home(checked)
    if checked.name is None:
        checked.name = default_name(checked, choices)
        if not names_folder(checked.name):
            raise ConfigError(f"{checked.name}: cannot name a run folder; set name=NAME")
    return checked


def _expand_home(cfg: DictConfig) -> None:
    """Replace a leading ``~/`` in the paths of a config by the home folder, which a shell does not do after KEY=."""
    for section in (cfg.dataset, cfg.paths):
        for key in section:
            value = None if OmegaConf.is_missing(section, key) else section._get_node(key)._value()
            if isinstance(value, str) and value.startswith("~/"):
                section[key] = os.path.expanduser(value)  # noqa: PTH111  it keeps the spelling of the rest


def load_run(
    folder: str | os.PathLike[str], overrides: Sequence[str] = (), *, allow_targets: Sequence[str] = ()
) -> DictConfig:
    """Return the checked config of a run folder, with KEY=VALUE changes (or dataset=NAME). Raises ConfigError.

    `runner.amp` of the folder is the precision of its training; that of later commands is `inference_amp`.
    `allow_targets` are packages that `_target_` may name too; what the folder allows itself counts for nothing.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise ConfigError(_no_run(Path(folder)))
    try:
        text = path.read_text(encoding="utf-8")
        check_yaml(text)
        cfg = OmegaConf.load(io.StringIO(text))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(cfg, DictConfig) or not {"dataset", "model", "head", "loss"} <= cfg.keys():
        raise ConfigError(f"{path}: holds no config of a run; the run is usable with a copy from before the damage")
    parser = OverridesParser.create()
    changed: list[str] = []
    for raw in overrides:
        override = parse_override(parser, raw)
        if isinstance(override, str):
            raise ConfigError(override)
        changed.append(override.key_or_group)
        if override.is_sweep_override() or override.is_delete() or override.package is not None:
            raise ConfigError(f"{raw}: only KEY=VALUE can change a finished run's config")
        if override.key_or_group == "dataset" and not isinstance(override.value(), dict):
            _choose_dataset(cfg, str(override.value()), overrides, allow_targets)
            continue
        if isinstance(override.value(), str) and isinstance(cfg.get(override.key_or_group), DictConfig):
            group = override.key_or_group
            raise ConfigError(
                f"{raw}: a finished run keeps its {group}; what can change is the data set (dataset=NAME) and single "
                f"options ({group}.KEY=VALUE). For another {group} train anew: mltrain train"
            )
        OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True, force_add=True)

    def origin(key: str) -> str:
        return "" if any(f"{key}.".startswith(f"{typed}.") for typed in changed) else str(path)

    checked = check_config(cfg, allow_targets=[*allow_targets, *granted_packages(overrides)], origin=origin)
    _expand_home(checked)
    checked._set_flag(_AMP_ASKED, any(raw.lstrip("+").startswith("runner.amp=") for raw in overrides))
    return checked


def inference_amp(cfg: DictConfig) -> str:
    """Return the precision, a value of `runner.amp`, with which commands use the finished run of a `load_run` config.

    It is "off", full precision, unless an override asks for another. So predictions, tuned thresholds and exported
    files, which are in full precision too, give the same labels. In bf16 probabilities are rounded otherwise, and
    labels near their thresholds change. `mltrain evaluate` keeps the precision of the training and repeats its figures.
    """
    return str(cfg.runner.amp) if cfg._get_flag(_AMP_ASKED) else "off"


def _no_run(given: Path) -> str:
    if not given.exists():
        return f"{given}: no run folder: there is no such folder; mltrain train names it in its last lines"
    if given.is_file():
        inside = (given.parent / "config.yaml").is_file()
        return f"{given}: no run folder but a file{f'; give its folder, {given.parent}' if inside else ''}"
    below = next((path.parent for path in given.glob("*/**/config.yaml")), None)
    return f"{given}: no run folder: it has no config.yaml{f'; one below it is {below}' if below else ''}"


def _choose_dataset(cfg: DictConfig, option: str, overrides: Sequence[str], allow_targets: Sequence[str]) -> None:
    """Set another data set. If it is the one that the run has, its options stay, but paths.data may move its files."""
    moved = [raw for raw in overrides if raw.startswith("paths.data=")]
    own = [raw for raw in overrides if raw.startswith(("dataset.", *(f"paths.{name}" for name in NAMES)))]
    words = [f"dataset={option}", *(moved or [f"paths.data={cfg.paths.data}"]), *own]
    chosen = load(words, allow_targets=allow_targets).dataset
    before = cfg.get("dataset", {})
    if (chosen.get("_target_"), chosen.get("name")) != (before.get("_target_"), before.get("name")):
        cfg.dataset = chosen
    elif moved:
        cfg.dataset.update({key: chosen[key] for key in ("root", "file", "path") if key in chosen})


HEADER = "# @package _global_"
"""first line of an experiment file"""


class _CheckedFiles(FileConfigSource):
    """Config files as Hydra reads them, but checked: see `check_yaml`; and ??? replaces a default, so it is noticed."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        if path.is_file():
            try:
                check_yaml(path.read_text(encoding="utf-8"))
            except (ValueError, OSError, yaml.YAMLError) as error:
                raise ValueError(f"{path}: {error}") from error
        result = super().load_config(config_path)
        if path.is_file() and config_path.startswith(f"{EXPERIMENT}/") and result.header.get("package") != "_global_":
            raise ValueError(f"{path}: {_missing_header(path)}")
        if isinstance(result.config, DictConfig) and not config_path.startswith("hydra/"):
            for key in [key for key in result.config if key not in ("defaults", "hydra")]:
                _mark_missing(result.config, key)
        return result


def _missing_header(path: Path) -> str:
    """Say what keeps Hydra from reading the header of an experiment file."""
    text = path.read_text(encoding="utf-8")
    first = f'its first line must be "{HEADER}", so that its keys are those of the whole config'
    if text.startswith("\ufeff"):
        return f"a byte order mark hides its first line; save it as UTF-8 without one, and {first}"
    found = next((line for line in text.splitlines() if "@package" in line), None)
    if found is not None and found.strip() == HEADER:
        return f"{first}; it stands in a later line: move it to the top"
    return f"{first}; found {(found or text.partition(chr(10))[0])!r}"


def _mark_missing(node: DictConfig, key: Any) -> None:
    if OmegaConf.is_missing(node, key):
        node[key] = UNSET
    elif not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
        for inner in node[key]:
            _mark_missing(node[key], inner)


@contextmanager
def composing(source: Source) -> Iterator[None]:
    """Let Hydra compose from our folder of configs, also inside a job that Hydra itself has started."""
    folder = source.folder.resolve()
    state, sources = GlobalHydra.instance(), SourcesRegistry.instance().types
    outer, files = state.hydra, sources.get("file", FileConfigSource)
    state.clear()
    sources["file"] = _CheckedFiles
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folder)):
            yield
    finally:
        GlobalHydra.instance().hydra = outer
        sources["file"] = files


def prefer_own_configs(source: Source) -> None:
    """Use our file instead of a plugin's config of the same name, which Hydra would take for its schema."""
    Plugins.instance()  # which registers them
    for file in source.folder.glob("hydra/*/*.yaml"):
        registered = ConfigStore.instance().repo.get("hydra", {}).get(file.parent.name, {})
        registered.pop(file.name, None)


def compose_with_hydra(overrides: Sequence[str], source: Source) -> DictConfig:
    if not (source.folder / f"{source.name}.yaml").is_file():
        raise ConfigError(
            f"{source.folder}: no {source.name}.yaml here; this must be a whole folder of configs, as that of a "
            "checkout. To add options and recipes of yours: --config-dir DIR"
        )
    prefer_own_configs(source)
    with composing(source):
        return compose(source.name, [*overrides, *search_path(source)], return_hydra_config=True)


def search_path(source: Source) -> list[str]:
    """Return the override that tells Hydra the folders of `--config-dir`, in a list that is empty without them."""
    search = [f"file://{folder.resolve()}" for folder in source.extra]
    return [f"hydra.searchpath=[{','.join(search)}]"] if search else []


def _replace_chosen_sections(cfg: DictConfig, scan: Scan, source: Source) -> None:
    """Undo the experiment's options of a component that an override chose: they were meant for another component."""
    without = compose_with_hydra([text for text in scan.overrides if text not in scan.experiments], source)
    for section in scan.choices:
        before: Any = OmegaConf.to_container(cfg[section])
        after: Any = OmegaConf.to_container(without[section])
        if before == after:
            continue
        left = [f"{section}.{k}={spell(v)}" for k, v in before.items() if k not in after or after[k] != v]
        log.warning(
            "%s=%s replaces what the experiment sets there: %s", section, scan.choices[section], ", ".join(left)
        )
        with open_dict(cfg):
            cfg[section] = after


def explain(error: Exception) -> str:
    """Return a composition error of Hydra, OmegaConf or YAML as a text in our form."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        wanted = str(error.missing_cfg_file).removesuffix(".yaml")
        group, _, option = wanted.rpartition("/")
        options = list(error.options or ())
        near = nearest(option, options)
        hint = f"; did you mean {group}: {near}?" if near else ""
        parent = str(error).split(":")[0] + ": " if str(error).startswith("In '") else ""
        allowed = f"\nallowed: {', '.join(options)}" if options else ""
        return f"{parent}there is no config {wanted}{hint}{allowed}"
    text = str(error).split("\nConfig search path:")[0].strip()
    cause = str(error.__cause__).strip() if error.__cause__ is not None else ""
    if cause and cause not in text:
        text = f"{text}: {cause}" if text else cause
    return text or type(error).__name__
