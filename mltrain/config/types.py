"""Type annotations for config values, read from source text without importing what they name."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mltrain.text import spell

Resolve = Callable[[str], "ast.expr | None"]  # the expression a module-level alias stands for


LARGEST = 3.4e38  # the largest float32
FINITE = f"numbers are finite, and at most {LARGEST}"


def is_finite(value: Any) -> bool:
    """Return whether a number, or every number inside a list or mapping, is finite; float32 must hold it too."""
    if isinstance(value, (int, float)):
        return -LARGEST <= value <= LARGEST  # False for NaN
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return all(is_finite(item) for item in items)


class Kind:
    """The kind of an option's values. This base accepts anything finite: the annotation is unknown here."""

    @property
    def is_text(self) -> bool:
        """True if only text, or text and null, is accepted."""
        return False

    def accepts(self, value: Any) -> bool:
        return is_finite(value)

    def convert(self, value: Any) -> Any:
        """Convert an accepted value to the annotation's type: an int to float, a list to tuple."""
        return value

    def __str__(self) -> str:
        return "any value"


@dataclass(frozen=True)
class Atom(Kind):
    type: type
    name: str

    @property
    def is_text(self) -> bool:
        return self.type is str

    def accepts(self, value: Any) -> bool:
        if isinstance(value, bool):
            return self.type is bool
        return is_finite(value) and isinstance(value, (int, float) if self.type is float else self.type)

    def convert(self, value: Any) -> Any:
        return float(value) if self.type is float else value

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Choice(Kind):
    values: tuple[Any, ...]

    def accepts(self, value: Any) -> bool:
        return any(value == allowed and type(value) is type(allowed) for allowed in self.values)

    def __str__(self) -> str:
        return " | ".join(spell(value) for value in self.values)


@dataclass(frozen=True)
class Items(Kind):
    """A list, tuple, set or sequence; `fixed` gives the kinds of a tuple of known length."""

    item: Kind
    fixed: tuple[Kind, ...] | None = None
    as_tuple: bool = False

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, (list, tuple)):
            return False
        if self.fixed is not None:
            return len(value) == len(self.fixed) and all(k.accepts(v) for k, v in zip(self.fixed, value, strict=True))
        return all(self.item.accepts(v) for v in value)

    def convert(self, value: Any) -> Any:
        kinds = self.fixed or (self.item,) * len(value)
        converted = [kind.convert(v) for kind, v in zip(kinds, value, strict=True)]
        return tuple(converted) if self.as_tuple else converted

    def __str__(self) -> str:
        if self.fixed is not None:
            return f"a list [{', '.join(map(str, self.fixed))}]"
        if isinstance(self.item, Mapping):
            return "a list of mappings"
        return "a list" if type(self.item) is Kind else f"a list of {self.item}"


@dataclass(frozen=True)
class Mapping(Kind):
    value: Kind

    def accepts(self, value: Any) -> bool:
        return isinstance(value, dict) and all(self.value.accepts(v) for v in value.values())

    def convert(self, value: Any) -> Any:
        return {key: self.value.convert(v) for key, v in value.items()}

    def __str__(self) -> str:
        return "a mapping" if type(self.value) is Kind else f"a mapping to {self.value}"


@dataclass(frozen=True)
class OneOf(Kind):
    options: tuple[Kind, ...]

    @property
    def is_text(self) -> bool:
        return all(option.is_text or option is NULL for option in self.options)

    def accepts(self, value: Any) -> bool:
        return any(option.accepts(value) for option in self.options)

    def convert(self, value: Any) -> Any:
        for option in self.options:
            # `int | float` keeps an int
            if option.accepts(value) and option.convert(value) == value and type(option.convert(value)) is type(value):
                return value
        return next((option.convert(value) for option in self.options if option.accepts(value)), value)

    def __str__(self) -> str:
        return " | ".join(str(option) for option in self.options)


ANY = Kind()
NULL = Atom(type(None), "null")
_ATOMS: dict[str, Kind] = {
    "int": Atom(int, "int"),
    "float": Atom(float, "float"),
    "bool": Atom(bool, "true | false"),
    "str": Atom(str, "string"),
    "Path": Atom(str, "path"),
    "PathLike": Atom(str, "path"),
    "None": NULL,
}
_LISTS = ("list", "Sequence")
_MAPPINGS = ("dict", "Mapping")


def parse_annotation(node: ast.expr | str | None, resolve: Resolve = lambda name: None) -> Kind:
    """Return the kind of an annotation, given as source or syntax tree; an unreadable one accepts any value."""
    if node is None:
        return ANY
    if isinstance(node, str):
        node = ast.parse(node, mode="eval").body
    if isinstance(node, ast.Constant):
        return NULL if node.value is None else ANY
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _one_of([node.left, node.right], resolve)
    if isinstance(node, ast.Subscript):
        return _parse_generic(node, resolve)
    name = _last_name(node)
    if name in _ATOMS:
        return _ATOMS[name]
    if name in _LISTS or name == "tuple":
        return Items(ANY, as_tuple=name == "tuple")
    if name in _MAPPINGS:
        return Mapping(ANY)
    if isinstance(node, ast.Name):
        alias = resolve(node.id)
        if alias is not None:
            return parse_annotation(alias, resolve)
    return ANY


def _parse_generic(node: ast.Subscript, resolve: Resolve) -> Kind:
    name = _last_name(node.value)
    arguments = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return Choice(tuple(ast.literal_eval(argument) for argument in arguments))
    if name == "PathLike":
        return _ATOMS["Path"]
    if name in _LISTS:
        return Items(parse_annotation(arguments[0], resolve))
    if name == "tuple":
        if len(arguments) == 2 and isinstance(arguments[1], ast.Constant) and arguments[1].value is Ellipsis:
            return Items(parse_annotation(arguments[0], resolve), as_tuple=True)
        return Items(ANY, tuple(parse_annotation(argument, resolve) for argument in arguments), as_tuple=True)
    if name in _MAPPINGS:
        return Mapping(parse_annotation(arguments[-1], resolve))
    return ANY


def _one_of(nodes: list[ast.expr], resolve: Resolve) -> Kind:
    options: list[Kind] = []
    for kind in (parse_annotation(node, resolve) for node in nodes):
        options.extend(kind.options if isinstance(kind, OneOf) else [kind])
    return ANY if any(type(option) is Kind for option in options) else OneOf(tuple(options))


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
