"""Help on one part of the config: `mltrain train --help loss=db`, `--help loss` or `--help runner`.

Everything is read from where it is stated: values and comments from the YAML file of an option, types and defaults from
the signature of its target, meanings of a loss's options from the docstring, built-in options from `schema`.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
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


def topic_help(topic: str, source: Source) -> str:
    """Return the help on a GROUP, a GROUP=OPTION, a section, or one option of a section. Raises ConfigError."""
    group, equals, option = topic.lstrip("+").partition("=")
    if group in SECTIONS:
        return _section(group, SECTIONS[group], f"{group}.")
    if group in section_options(RootOptions) and group not in source.groups():
        return _rows_of_section(RootOptions, "", only=group)
    section, _, key = group.partition(".")
    if section in SECTIONS and key in section_options(SECTIONS[section]):
        return _rows_of_section(SECTIONS[section], f"{section}.", only=key)
    if section in source.groups() and key:
        raise ConfigError(f"{topic}: name an option of {section}, e.g. --help {section}={_first(section, source)}")
    if group not in source.groups():
        known = [*source.groups(), *section_options(RootOptions)]
        raise ConfigError(
            f"{topic}: there is no help on {group}{did_you_mean(group, known)}\nallowed: {', '.join(known)}"
        )
    return _option(group, option, source) if equals else _group(group, source)


def _first(group: str, source: Source) -> str:
    return next(iter(source.options(group)), "OPTION")


# -- built-in sections -----------------------------------------------------------------------------------------------


def _section(name: str, section: type, prefix: str) -> str:
    example = next(f"{prefix}{key}={spell(option.default)}" for key, option in section_options(section).items())
    return f"{name}: {inspect.getdoc(section)}\n\n{_rows_of_section(section, prefix)}\nExample: {COMMAND} {example}\n"


def _rows_of_section(section: type, prefix: str, *, only: str | None = None) -> str:
    comments = _field_comments(section)
    options = {key: option for key, option in section_options(section).items() if only in (None, key)}
    return (
        aligned(
            {
                f"{prefix}{key}={spell(option.default)}": _with_type(_type_of(option), comments.get(key, ""))
                for key, option in options.items()
            }
        )
        + "\n"
    )


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


def _option(group: str, option: str, source: Source) -> str:
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
        return f"{plus}{group}={option}\n\n{header}\n\nIt sets:\n\n{textwrap.indent(body, '    ')}\n"
    tree: Any = yaml.safe_load(text) or {}
    brings = [f"{k}={v}" for item in tree.get("defaults", []) if isinstance(item, dict) for k, v in _overrides(item)]
    if "@package _global_" in text:
        brings += [f"{k}.{key}={spell(v)}" for k in SECTIONS for key, v in (tree.get(k) or {}).items()]
        tree = tree.get(group, {})
    if group == "model" and file.stem == "timm":
        tree["name"] = option
    target = tree.pop("_target_", None)
    parts = [f"{group}={option}" + (f": {target}" if target else ""), header]
    if target and (about := _about(str(target))):
        parts.append(about)
    if brings:
        parts.append(f"It also chooses: {' '.join(brings)}")
    rows = _rows(group, tree, str(target), _yaml_comments(text)) if target else {}
    if rows:
        number = next((key for key in tree if isinstance(tree[key], (int, float)) and tree[key] is not True), None)
        key = number or next((key for key in tree if key != "name"), next(iter(tree), None))
        example = f" {group}.{key}={spell(tree[key])}" if key else ""
        parts += [aligned(rows), f"Example: {COMMAND} {group}={option}{example}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overrides(item: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key.removeprefix("override ").lstrip("/"), value) for key, value in item.items()]


def _rows(group: str, tree: dict[str, Any], target: str, comments: dict[str, str]) -> dict[str, str]:
    """Return `GROUP.KEY=DEFAULT` of every option of a target with its type and meaning."""
    try:
        signature = read_signature(target)
    except TargetError:  # of another package
        signature = Signature(target)
    meanings = docstring_arguments(target)
    values = {key: p.default for key, p in signature.parameters.items() if key not in INJECTED[group]} | tree
    return {
        f"{group}.{key}={'???' if value is UNKNOWN else spell(value)}": _with_type(
            str(signature.parameters.get(key, Parameter()).kind), meanings.get(key) or comments.get(key, "")
        )
        for key, value in values.items()
        if key != "defaults"
    }


def _with_type(kind: str, meaning: str) -> str:
    kind = "" if kind == "any value" else kind
    return f"{kind}; {meaning}" if kind and meaning else kind or meaning


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
