"""Overrides, the arguments KEY=VALUE: check each by itself, and rewrite it for Hydra."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from mltrain.config.check import check_options
from mltrain.config.schema import INJECTED, SECTIONS, RootOptions, section_options
from mltrain.config.timm_models import timm_models
from mltrain.errors import ConfigError
from mltrain.text import argument, did_you_mean, nearest, quoted, spell

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel has the configs inside the package; in a checkout they lie beside it.
CONFIGS = next(folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir())
EXPERIMENT = "experiment"
# Not a quoted text, a list, a dict or a call, without a comma, and without another KEY=VALUE after a space.
_PLAIN_TEXT = re.compile(r"""(?![\s'"\[{=]|\w+\()(?:(?!\s[\w.]+=)[^,])+""")


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


def _offer_timm_model(name: str, source: Source) -> bool:
    """Let Hydra know `model=NAME` for a model of timm, with or without a tag of its weights; False if there is none.

    It stands for `model=timm model.name=NAME`.
    """
    template = source.file("model/timm.yaml")
    if template is None or name.partition(".")[0] not in timm_models():
        return False
    node = OmegaConf.merge(OmegaConf.load(template), {"name": name})
    ConfigStore.instance().store(group="model", name=f"{name}.yaml", node=node)
    return True


@dataclass
class Scan:
    """Overrides rewritten for Hydra, and the problems of those that are wrong."""

    overrides: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)  # component -> option chosen by an override
    experiments: list[str] = field(default_factory=list)  # overrides that choose an experiment
    invalid_groups: set[str] = field(default_factory=set)  # sections whose option is unknown: their keys are not judged


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
        override = parse_override(parser, raw)
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
        override = parse_override(parser, raw)
        if isinstance(override, str):
            scan.problems.append(override)
            continue
        raw = override.input_line or raw
        key = override.key_or_group
        if override.is_hydra_override() or override.is_delete():
            scan.overrides.append(raw)
        elif override.is_sweep_override() and not sweep:
            value = raw.split("=", 1)[1]
            text = f"gives several values: for one run each add -m; for a list write {key}=[{value}]"
            path = f"; for one text with a comma {argument(key, value)}" if "/" in value else ""
            scan.problems.append(f"{raw}: {text}{path}")
        elif key in groups and not isinstance(override.value(), dict):
            _scan_choice(scan, override, source)
        else:
            scan.overrides.append("++" + raw.lstrip("+"))
    return scan


def parse_override(parser: OverridesParser, raw: str) -> Override | str:
    """Return the override, or a text that says what is wrong with it.

    Text with characters that Hydra knows no meaning of, such as a path with umlauts, spaces, = or ~, needs no quotes.
    """
    if raw.startswith("=") or ("=" not in raw and not raw.startswith("~")):
        return f"{raw}: is no override; write KEY=VALUE, e.g. runner.epochs=5 or loss=asl"
    try:
        return parser.parse_override(raw)
    except HydraException as error:
        key, _, value = raw.partition("=")
        if _PLAIN_TEXT.fullmatch(value):
            with suppress(HydraException):
                return parser.parse_override(f"{key}={quoted(value)}")
        detail = str(error).split("\n")[0].split(" expecting ")[0].replace("'<EOF>'", "at the end")
        return f"{raw}: cannot be read ({detail}); if this is one text, write {argument(key, value)}"


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
        if value not in options and not (group == "model" and _offer_timm_model(str(value), source)):
            near = nearest(str(value), [*options, *timm_models()] if group == "model" else options)
            hint = f"; did you mean {group}={near}?" if near else ""
            listed = (", ".join(options) or "none") + (", or any model of timm" if group == "model" else "")
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
