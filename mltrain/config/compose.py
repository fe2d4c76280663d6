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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mltrain.config.check import UNSET, check_config, check_options, find_problems, message
from mltrain.config.identity import default_name, names_folder
from mltrain.config.schema import INJECTED, SECTIONS, RootOptions, section_options
from mltrain.config.targets import OPTION
from mltrain.errors import ConfigError
from mltrain.safe_yaml import check_yaml
from mltrain.text import did_you_mean, nearest, spell

log = logging.getLogger(__name__)
_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel has the configs inside the package; in a checkout they lie beside it.
CONFIGS = next(folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir())
EXPERIMENT = "experiment"
_AMP_ASKED = "runner_amp_asked"  # flag of a config: an override of `load_run` set runner.amp


@dataclass(frozen=True)
class Source:
    """The folders of configs: those of `--config-dir`, then the main one."""

    folder: Path = CONFIGS
    extra: tuple[Path, ...] = ()
    name: str = "train"

    @property
    def folders(self) -> tuple[Path, ...]:
        return (*self.extra, self.folder)

    def options(self, group: str) -> list[str]:
        found = {path.stem for folder in self.folders for path in (folder / group).glob("*.yaml")}
        return sorted(found | ({"default"} if group in SECTIONS else set()))

    def groups(self) -> list[str]:
        """Return the known groups in the order of the schema, then others that have a folder."""
        known = [*INJECTED, *SECTIONS, EXPERIMENT]
        others = {path.name for folder in self.folders for path in folder.glob("*/") if path.is_dir()}
        return [*known, *sorted(others - {*known, "hydra"})]

    def file(self, relative: str) -> Path | None:
        return next((folder / relative for folder in self.folders if (folder / relative).is_file()), None)


@dataclass
class Scan:
    """Overrides rewritten for Hydra, and the problems of those that are wrong."""

    overrides: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)  # component -> option chosen by an override
    experiments: list[str] = field(default_factory=list)  # overrides that choose an experiment
    invalid_groups: set[str] = field(default_factory=set)  # sections whose option is unknown: their keys are not judged


def load(
    overrides: Sequence[str] = (), *, source: Source | None = None, allow_targets: Sequence[str] = ()
) -> DictConfig:
    """Compose and check the config that `mltrain train OVERRIDES` would run. Raises ConfigError with all problems.

    `allow_targets` are packages that `_target_` may name too, besides those of an override `paths.allow_targets=[...]`.
    """
    source = source or Source()
    scan = scan_overrides(overrides, source)
    composed, problems = None, list(scan.problems)
    try:
        composed = _compose(scan.overrides, source)
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
    granted = [*allow_targets, *_granted(overrides)]
    checked, found = find_problems(composed, allow_targets=granted, origin=_Origin(overrides, scan, choices, source))
    problems += [text for text in found if text.split(".")[0].split("=")[0].split(":")[0] not in scan.invalid_groups]
    if problems:
        raise ConfigError(message(problems))
    if checked.name is None:
        checked.name = default_name(checked, choices)
        if not names_folder(checked.name):
            raise ConfigError(f"{checked.name}: cannot name a run folder; set name=NAME")
    return checked


def _granted(overrides: Sequence[str]) -> list[Any]:
    """Return the packages that overrides allow."""
    parser = OverridesParser.create()
    granted: Any = []
    for raw in overrides:
        override = _parse(parser, raw)
        if isinstance(override, str) or override.is_sweep_override() or override.is_delete():
            continue
        key, value = override.key_or_group, override.value()
        if key == OPTION:
            granted = value
        elif key == OPTION.split(".")[0] and isinstance(value, dict):
            granted = value.get(OPTION.split(".")[1], granted)
    return list(granted) if isinstance(granted, list) else [granted]


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
    if not isinstance(cfg, DictConfig):
        raise ConfigError(f"{path}: holds no config")
    parser = OverridesParser.create()
    for raw in overrides:
        override = _parse(parser, raw)
        if isinstance(override, str):
            raise ConfigError(override)
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
    checked = check_config(cfg, allow_targets=[*allow_targets, *_granted(overrides)])
    checked._set_flag(_AMP_ASKED, any(raw.lstrip("+").startswith("runner.amp=") for raw in overrides))
    return checked


def inference_amp(cfg: DictConfig) -> str:
    """Return the precision, a value of `runner.amp`, with which commands use the finished run of a `load_run` config.

    It is "off", full precision, unless an override asks for another. So predictions, tuned thresholds and exported
    files, which are in full precision too, give the same labels. In bf16 the probabilities of an image differ by up to
    some hundredths, and labels near their thresholds change.
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
    own = [raw for raw in overrides if raw.startswith(("dataset.", OPTION))]
    words = [f"dataset={option}", *(moved or [f"paths.data={cfg.paths.data}"]), *own]
    chosen = load(words, allow_targets=allow_targets).dataset
    before = cfg.get("dataset", {})
    if (chosen.get("_target_"), chosen.get("name")) != (before.get("_target_"), before.get("name")):
        cfg.dataset = chosen
    elif moved:
        cfg.dataset.update({key: chosen[key] for key in ("root", "file") if key in chosen})


def command_options(section: type, words: Sequence[str], *, suggest: bool = True) -> tuple[Any, list[str]]:
    """Return the options of a command itself (an instance of the dataclass `section`) and the other arguments.

    An option that takes text takes it as typed: Hydra's grammar would stumble over `baseline=loss=bce`.

    Args:
        section: the dataclass.
        words: the arguments.
        suggest: refuse an unknown key that is nearly one of the options.

    Raises:
        ConfigError: an option has a wrong value, or there is no such option.
    """
    parser, rest = OverridesParser.create(), []
    given: dict[str, Any] = {}
    own, roots = section_options(section), {*INJECTED, *SECTIONS, *section_options(RootOptions)}
    for raw in words:
        key, equals, text = raw.partition("=")
        if key not in own or not equals:
            hint = did_you_mean(key, own, "{}=VALUE") if equals and key not in roots and "." not in key else ""
            if suggest and hint:
                raise ConfigError(f"{raw}: there is no {key}{hint}")
            rest.append(raw)
            continue
        if own[key].kind.is_text:
            given[key] = None if text in ("null", "") else _unquoted(text)
            continue
        override = _parse(parser, raw)
        if isinstance(override, str):
            raise ConfigError(override)
        if override.is_sweep_override():
            raise ConfigError(f"{raw}: one value at a time")
        given[key] = override.value()
    return check_options(section, given), rest


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def scan_overrides(overrides: Sequence[str], source: Source, *, sweep: bool = False) -> Scan:
    """Check each override by itself: its syntax, and whether a group has the option that it chooses."""
    parser = OverridesParser.create()
    groups = source.groups()
    scan = Scan()
    for raw in overrides:
        override = _parse(parser, raw)
        if isinstance(override, str):
            scan.problems.append(override)
            continue
        key = override.key_or_group
        if override.is_hydra_override() or override.is_delete():
            scan.overrides.append(raw)
        elif override.is_sweep_override() and not sweep:
            text = "gives several values: for one run each add -m; for a list write"
            scan.problems.append(f"{raw}: {text} {key}=[{raw.split('=', 1)[1]}]")
        elif key in groups and not isinstance(override.value(), dict):
            _scan_choice(scan, override, source)
        else:
            scan.overrides.append("++" + raw.lstrip("+"))
    return scan


def _parse(parser: OverridesParser, raw: str) -> Override | str:
    """Return the override, or a text that says what is wrong with it."""
    if raw.startswith("=") or ("=" not in raw and not raw.startswith("~")):
        return f"{raw}: is no override; write KEY=VALUE, e.g. runner.epochs=5 or loss=asl"
    try:
        return parser.parse_override(raw)
    except HydraException as error:
        detail = str(error).split("\n")[0].split(" expecting ")[0].replace("'<EOF>'", "at the end")
        return (
            f"{raw}: cannot be read ({detail}); write KEY=VALUE and quote what holds special characters: \"KEY='a, b'\""
        )


def _scan_choice(scan: Scan, override: Override, source: Source) -> None:
    group, raw = override.key_or_group, override.input_line or ""
    if override.package is not None:
        scan.problems.append(f"{raw}: a config has one {group}; write {group}=OPTION")
        return
    options, value = source.options(group), override.value()
    one = group in INJECTED or group in SECTIONS
    if isinstance(value, Glob):
        values: list[Any] = list(value.filter(options))
        raw = f"{group}={','.join(values)}"
    elif override.is_sweep_override():
        values = list(override.sweep_string_iterator())  # each value as an override spells it
    else:
        values = value if isinstance(value, list) else [value]
    if not values or (one and isinstance(value, list) and not override.is_sweep_override()):
        scan.problems.append(f"{raw}: a config has one {group}; write {group}=OPTION\nallowed: {', '.join(options)}")
        scan.invalid_groups.add(group)
        return
    for value in values:
        if value not in options:
            near = nearest(str(value), options)
            hint = f"; did you mean {group}={near}?" if near else ""
            listed = ", ".join(options) or "none"
            scan.problems.append(f"{group}={spell(value)}: there is no such option of {group}{hint}\nallowed: {listed}")
            scan.invalid_groups.add(group)
    if group in scan.invalid_groups:
        return
    text = raw.lstrip("+")
    if one:
        scan.overrides.append(text)
        scan.choices[group] = str(values[-1])
    else:
        scan.overrides.append("+" + text)
        if group == EXPERIMENT:
            scan.experiments.append("+" + text)


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
        if isinstance(result.config, DictConfig) and not config_path.startswith("hydra/"):
            for key in [key for key in result.config if key not in ("defaults", "hydra")]:
                _mark_missing(result.config, key)
        return result


def _mark_missing(node: DictConfig, key: Any) -> None:
    if OmegaConf.is_missing(node, key):
        node[key] = UNSET
    elif not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
        for inner in node[key]:
            _mark_missing(node[key], inner)


@contextmanager
def _hydra(folder: Path) -> Iterator[None]:
    """Let Hydra compose from a folder, also inside a job that Hydra itself has started."""
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


def _compose(overrides: Sequence[str], source: Source) -> DictConfig:
    if not (source.folder / f"{source.name}.yaml").is_file():
        raise ConfigError(
            f"{source.folder}: no {source.name}.yaml here; this must be the folder `configs` of a checkout"
        )
    search = [f"file://{folder.resolve()}" for folder in source.extra]
    extra = [f"hydra.searchpath=[{','.join(search)}]"] if search else []
    prefer_own_configs(source)
    with _hydra(source.folder.resolve()):
        return compose(source.name, [*overrides, *extra], return_hydra_config=True)


def compose_settings(overrides: Sequence[str], source: Source) -> DictConfig:
    """Return Hydra's own settings for a sweep of these overrides. Raises ConfigError.

    They name classes, commands of a cluster and variables of the environment. So a recipe or another file outside
    configs/hydra may set numbers and the values to try (hydra.sweeper.params), and all the rest is refused.
    """
    try:
        settings = _compose(overrides, source).hydra
        words = [raw for raw in overrides if raw.lstrip("+~").startswith(("hydra.", "hydra/"))]
        for group in ("launcher", "sweeper"):  # a recipe may choose one of ours
            choice = settings.runtime.choices.get(f"hydra/{group}")
            if (source.folder / "hydra" / group / f"{choice}.yaml").is_file() and f"hydra/{group}=" not in str(words):
                words.append(f"hydra/{group}={choice}")
        ours, found = (_flat(node) for node in (_compose(words, source).hydra, settings))
        for key, value in found.items():
            same = key in ours and ours[key] == value
            if not same and not isinstance(value, (int, float)) and not key.startswith("sweeper.params."):
                raise ConfigError(f"hydra.{key}={spell(value)}: a file cannot set it; it belongs on the command line")
        return settings
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(message([_unknown_setting(overrides, source) or explain(error)])) from error


def _unknown_setting(overrides: Sequence[str], source: Source) -> str | None:
    """Return a text on the first `hydra.` key that Hydra does not have, with the nearest key, or None."""
    groups = [text for text in overrides if not text.lstrip("+~").startswith("hydra.")]
    try:
        settings = OmegaConf.create({"hydra": _compose(groups, source).hydra})
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError):
        return None  # a group is wrong, which `explain` says
    for text in overrides:
        node: Any = settings
        keys = text.partition("=")[0].split(".")
        for depth, key in enumerate(keys if keys[0] == "hydra" else ()):
            if not isinstance(node, DictConfig):
                break
            if key not in node:
                inside = ".".join(keys[:depth])
                hint = did_you_mean(key, map(str, node), f"{inside}.{{}}")
                return f"{text}: Hydra has no {inside}.{key}{hint}\nallowed: {', '.join(sorted(map(str, node)))}"
            node = node._get_node(key)
    return None


def _flat(settings: DictConfig) -> dict[str, Any]:
    """Return those of Hydra's settings that can run something, by dotted key."""
    flat: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [
        (name, OmegaConf.to_container(settings[name], resolve=False))
        for name in ("launcher", "sweeper", "callbacks", "hydra_logging", "job_logging")
    ]
    waiting.append(("job.env_set", OmegaConf.to_container(settings.job.env_set, resolve=False)))
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}", inner) for key, inner in value.items()]
        else:
            flat[path] = value
    return flat


def _replace_chosen_sections(cfg: DictConfig, scan: Scan, source: Source) -> None:
    """Undo the experiment's options of a component that an override chose: they were meant for another component."""
    without = _compose([text for text in scan.overrides if text not in scan.experiments], source)
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


class _Origin:
    """Finds where a key was set: in an override, or in a line of the experiment or group file."""

    def __init__(self, overrides: Sequence[str], scan: Scan, choices: dict[str, Any], source: Source) -> None:
        self.keys = [raw.lstrip("+~").split("=", 1)[0] for raw in overrides]
        self.choices, self.source = choices, source
        self.experiments = [str(choices[EXPERIMENT])] if choices.get(EXPERIMENT) else []

    def __call__(self, path: str) -> str:
        for key in self.keys:
            if path == key or (path.startswith(key + ".") and key not in self.choices):
                return "from an override"
        keys = path.split(".")
        section, option = keys[0], self.choices.get(keys[0])
        for relative, inner in [
            *((f"{EXPERIMENT}/{name}.yaml", keys) for name in self.experiments),
            (f"{self.source.name}.yaml", keys),
            (f"{section}/{option}.yaml", keys[1:]),
            *((f"{group}/{self.choices.get(group)}.yaml", keys) for group in ("dataset", "model")),  # of other sections
        ]:
            file = self.source.file(relative)
            line = find_line(file, inner) if file is not None and inner else None
            if line is not None:
                return f"from {self.source.folder.name}/{relative}, line {line}"
        return ""


def find_line(file: Path, keys: Sequence[str]) -> int | None:
    """Return the line of a key in a YAML file, or None."""
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = None
    for key in keys:
        entries = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((name, value) for name, value in entries if name.value == key), None)
        if found is None:
            return None
        line, node = found[0].start_mark.line + 1, found[1]
    return line
