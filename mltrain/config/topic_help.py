"""Help on one part of the config: `mltrain train --help loss=db`, `--help loss` or `--help runner`.

Everything is read from where it is stated: values and comments from the YAML file of an option, types and defaults from
the signature of its target, meanings of a loss's options from the docstring, built-in options from `schema`.

`describe` and `section_rows` return it as data: the command line prints text, the documentation site tables.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mltrain.config.identity import DEBUG
from mltrain.config.option_help import WIDTH, aligned
from mltrain.config.overrides import EXPERIMENT, Source
from mltrain.config.schema import INJECTED, SECTIONS, Option, RootOptions, section_options
from mltrain.config.signatures import (
    UNKNOWN,
    Parameter,
    Signature,
    TargetError,
    find_definition,
    read_signature,
)
from mltrain.config.timm_models import timm_models
from mltrain.errors import ConfigError
from mltrain.text import did_you_mean, spell

COMMAND = "mltrain train"


@dataclass(frozen=True)
class Row:
    """One option: its key, and its default, type and meaning as text."""

    key: str
    default: str
    kind: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.kind}; {self.meaning}" if self.kind and self.meaning else self.kind or self.meaning


@dataclass(frozen=True)
class Description:
    """The help on GROUP=OPTION."""

    title: str
    """the argument that chooses it"""
    target: str = ""
    """dotted name of its class or function"""
    header: str = ""
    """the comments at the top of its file"""
    about: str = ""
    """the docstring of the target up to its arguments; indented lines are formulas"""
    brings: list[str] = field(default_factory=list)
    """other settings that come with it"""
    sets: str = ""
    """the YAML of a recipe"""
    rows: list[Row] = field(default_factory=list)
    example: str = ""


def topic_help(topic: str, source: Source) -> str:
    """Return the help on a GROUP, a GROUP=OPTION, a section, or one option of a section. Raises ConfigError."""
    group, equals, option = topic.lstrip("+").partition("=")
    if group in SECTIONS:
        return _section(group, SECTIONS[group], f"{group}.")
    if group in section_options(RootOptions) and group not in source.groups():
        return _one_row(RootOptions, "", group)
    section, _, key = group.partition(".")
    if section in SECTIONS and key in section_options(SECTIONS[section]):
        return _one_row(SECTIONS[section], f"{section}.", key)
    if section in source.groups() and key:
        raise ConfigError(f"{topic}: name an option of {section}, e.g. --help {section}={_first(section, source)}")
    if group not in source.groups():
        known = [*source.groups(), *section_options(RootOptions)]
        raise ConfigError(
            f"{topic}: there is no help on {group}{did_you_mean(group, known)}\nallowed: {', '.join(known)}"
        )
    return _text(describe(group, option, source)) if equals else _group(group, source)


def _first(group: str, source: Source) -> str:
    return next(iter(source.options(group)), "OPTION")


# -- built-in sections -----------------------------------------------------------------------------------------------


def _section(name: str, section: type, prefix: str) -> str:
    example = next(f"{prefix}{key}={spell(option.default)}" for key, option in section_options(section).items())
    rows = _layout(section_rows(section, prefix))
    return f"{name}: {inspect.getdoc(section)}\n\n{rows}\n\nExample: {COMMAND} {example}\n"


def section_rows(section: type, prefix: str) -> list[Row]:
    """Return the options of a built-in section; `prefix` comes before each key."""
    comments = _field_comments(section)
    return [
        Row(f"{prefix}{key}", spell(option.default), _type_of(option), comments.get(key, ""))
        for key, option in section_options(section).items()
    ]


def _layout(rows: list[Row]) -> str:
    return aligned({f"{row.key}={row.default}": str(row) for row in rows})


def _one_row(section: type, prefix: str, key: str) -> str:
    return _layout([row for row in section_rows(section, prefix) if row.key == f"{prefix}{key}"]) + "\n"


def _type_of(option: Option) -> str:
    return f"{option.kind}{option.range.replace(' of at', ', at').replace(' from', ', from')}"


def _field_comments(section: type) -> dict[str, str]:
    """Return the comment beside each field of a dataclass, from its source."""
    found: dict[str, str] = {}
    lines = textwrap.dedent(inspect.getsource(section)).splitlines()
    (definition,) = ast.parse("\n".join(lines)).body
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2]
    return found


# -- groups of components --------------------------------------------------------------------------------------------


def _group(group: str, source: Source) -> str:
    plus = "+" if group == EXPERIMENT else ""
    parts = [f"{plus}{group}=OPTION", aligned(headlines(group, source))]
    if group == "model":
        parts.append(f"Any of timm's {len(timm_models())} models works too, as model=NAME: mltrain list models PATTERN")
    parts.append(f"Options of one: {COMMAND} --help {group}={_first(group, source)}")
    return "\n\n".join(parts) + "\n"


def headlines(group: str, source: Source) -> dict[str, str]:
    """Return the options of a group, each with the first line of its file."""
    return {option: _headline(source.file(f"{group}/{option}.yaml")) for option in source.options(group)}


def describe(group: str, option: str, source: Source) -> Description:
    """Return the help on an option of a group. ConfigError: the group has no such option."""
    names = source.options(group)
    file = source.file(f"{group}/{option}.yaml")
    if file is None and group == "model" and option.partition(".")[0] in timm_models():
        file = source.file("model/timm.yaml")
    if file is None:
        raise ConfigError(
            f"{group}={option}: there is no such option of {group}{did_you_mean(option, names, group + '={}')}\n"
            f"allowed: {', '.join(names)}"
        )
    text = file.read_text(encoding="utf-8")
    header = "\n".join(line for line in _header(text) if not line.startswith("@package"))
    if group in (EXPERIMENT, DEBUG):
        plus = "+" if group == EXPERIMENT else ""
        body = "\n".join(itertools.dropwhile(lambda line: not line or line.startswith("#"), text.splitlines()))
        return Description(f"{plus}{group}={option}", header=header, sets=body)
    tree: Any = yaml.safe_load(text) or {}
    brings = [f"{k}={v}" for item in tree.get("defaults", []) if isinstance(item, dict) for k, v in _overrides(item)]
    if "@package _global_" in text:
        brings += [f"{k}.{key}={spell(v)}" for k in SECTIONS for key, v in (tree.get(k) or {}).items()]
        tree = tree.get(group, {})
    if group == "model" and file.stem == "timm":
        tree["name"] = option
    target = str(tree.pop("_target_", None) or "")
    rows = _rows(group, tree, target, _yaml_comments(text)) if target else []
    number = next((key for key in tree if isinstance(tree[key], (int, float)) and tree[key] is not True), None)
    key = number or next((key for key in tree if key != "name"), next(iter(tree), None))
    example = f" {group}.{key}={spell(tree[key])}" if key else ""
    return Description(
        f"{group}={option}",
        target=target,
        header=header,
        about=_about(target) if target else "",
        brings=brings,
        rows=rows,
        example=f"{COMMAND} {group}={option}{example}" if rows else "",
    )


def _text(described: Description) -> str:
    if described.sets:
        return f"{described.title}\n\n{described.header}\n\nIt sets:\n\n{textwrap.indent(described.sets, '    ')}\n"
    parts = [f"{described.title}: {described.target}" if described.target else described.title]
    parts += [described.header, described.about]
    if described.brings:
        parts.append(f"It also chooses: {' '.join(described.brings)}")
    if described.rows:
        parts += [_layout(described.rows), f"Example: {described.example}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overrides(item: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key.removeprefix("override ").lstrip("/"), value) for key, value in item.items()]


def _rows(group: str, tree: dict[str, Any], target: str, comments: dict[str, str]) -> list[Row]:
    """Return every option of a target, as GROUP.KEY."""
    try:
        signature = read_signature(target)
    except TargetError:  # of another package
        signature = Signature(target)
    meanings = docstring_arguments(target)
    values = {key: p.default for key, p in signature.parameters.items() if key not in INJECTED[group]} | tree
    rows = []
    for key, value in values.items():
        kind = str(signature.parameters.get(key, Parameter()).kind)
        rows.append(
            Row(
                f"{group}.{key}",
                "???" if value is UNKNOWN else spell(value),
                "" if kind == "any value" else kind,
                meanings.get(key) or comments.get(key, ""),
            )
        )
    return [row for row in rows if row.key != f"{group}.defaults"]


def _headline(file: Path | None) -> str:
    """Return the first sentence or line of a file's header."""
    header = _header(file.read_text(encoding="utf-8")) if file is not None else []
    return next((line for line in header if not line.startswith(("@package", "python "))), "")


def _header(text: str) -> list[str]:
    """Return the comments above the first key of a YAML file."""
    lines = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return lines


def _yaml_comments(text: str) -> dict[str, str]:
    """Return the comment beside each key of a YAML file."""
    found = re.findall(r"^ *(\w+):.*? # *(.+?) *$", text, re.MULTILINE)
    return dict(found)


# -- docstrings, read without importing ------------------------------------------------------------------------------


def _docstring(target: str) -> str:
    try:
        _, node = find_definition(target)
    except TargetError:
        return ""
    return (ast.get_docstring(node) or "") if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else ""


def _about(target: str) -> str:
    """Return the docstring of a target up to its arguments."""
    text = re.split(r"\n(?:Args|Returns|Raises|Yields):\n", _docstring(target))[0].strip().replace("``", "")
    paragraphs = text.split("\n\n")
    # Indented lines are formulas, whose layout has a meaning.
    return "\n\n".join(p if "\n    " in p or p.startswith(" ") else textwrap.fill(p, WIDTH) for p in paragraphs)


def docstring_arguments(target: str) -> dict[str, str]:
    """Return the texts of the section Args of a docstring, by argument; "see `Base`" is replaced by the base's text."""
    section = _docstring(target).partition("\nArgs:\n")[2]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        start = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
        if start:
            names = start[1].split(", ")
            found |= dict.fromkeys(names, start[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    for name, text in found.items():
        base = re.match(r"see `(\w+)`[.;]?\s*", text)
        if base and (inherited := _arguments_of_base(target, base[1]).get(name)):
            found[name] = " ".join(filter(None, (inherited, text[base.end() :])))
    return {name: text.replace("``", "") for name, text in found.items()}


def _arguments_of_base(target: str, base: str) -> dict[str, str]:
    """Return the arguments that a base class of the target describes."""
    owner, node = find_definition(target)
    for parent in node.bases if isinstance(node, ast.ClassDef) else ():
        found = owner.find(parent.id) if isinstance(parent, ast.Name) else None
        if found is not None and isinstance(found[1], ast.ClassDef):
            dotted = f"{found[0].dotted}.{found[1].name}"
            return docstring_arguments(dotted) if found[1].name == base else _arguments_of_base(dotted, base)
    return {}
