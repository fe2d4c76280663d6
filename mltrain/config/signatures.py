"""Signatures of config targets, read from source with `ast`, so that a typo is found before torch is imported."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mltrain.config.types import ANY, Kind, parse_annotation
from mltrain.text import nearest

PACKAGE = "mltrain"
_ROOT = Path(__file__).resolve().parents[1]
UNKNOWN = object()  # a default that is not a literal


class TargetError(Exception):
    """The target does not exist or cannot be called; the message says what there is."""


@dataclass(frozen=True)
class Parameter:
    kind: Kind = ANY
    required: bool = True
    default: Any = UNKNOWN


@dataclass(frozen=True)
class Signature:
    name: str
    parameters: dict[str, Parameter] = field(default_factory=dict)
    open: bool = False  # takes **kwargs
    added: frozenset[str] = frozenset()  # parameters that the section adds, which the target does not take

    @property
    def required(self) -> list[str]:
        return [name for name, parameter in self.parameters.items() if parameter.required]


class Module:
    """Top-level names of a source file of this package."""

    def __init__(self, dotted: str, path: Path) -> None:
        self.dotted = dotted
        self.is_package = path.name == "__init__.py"
        self.folder = path.parent
        self.names: dict[str, ast.stmt] = {}
        self.sources: dict[str, tuple[str, str | None]] = {}  # imported name -> (module, name in it)
        for node in _statements(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body):
            self._add(node)

    def _add(self, node: ast.stmt) -> None:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            self.names[node.name] = node
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.names[target.id] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            self.names[node.target.id] = node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:  # no import here is relative
                self.sources[alias.asname or alias.name] = (node.module or "", alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    self.sources[alias.asname] = (alias.name, None)

    def find(self, name: str) -> tuple[Module, ast.stmt] | None:
        """Return the module and statement that define a name, here or where it is imported from."""
        if name in self.names:
            node = self.names[name]
            value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
            return self.find(value.id) or (self, node) if isinstance(value, ast.Name) else (self, node)
        if name in self.sources:
            dotted, inner = self.sources[name]
            module = read_module(dotted) if inner is not None else None
            return module.find(inner) if module is not None and inner is not None else None
        return None

    def value(self, name: str) -> ast.expr | None:
        """Return the expression assigned to a module-level name: a constant or a type alias."""
        found = self.find(name)
        return found[1].value if found is not None and isinstance(found[1], (ast.Assign, ast.AnnAssign)) else None

    def callables(self) -> list[str]:
        defined = [n for n, node in self.names.items() if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
        imported = [
            name for name, (dotted, _) in self.sources.items() if self.is_package and dotted.startswith(PACKAGE)
        ]
        return sorted(name for name in {*defined, *imported} if not name.startswith("_"))

    def children(self) -> list[str]:
        if not self.is_package:
            return []
        files = [path.stem for path in self.folder.glob("*.py") if path.stem != "__init__"]
        return sorted([*files, *(path.parent.name for path in self.folder.glob("*/__init__.py"))])


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield top-level statements, including those inside if and try."""
    for node in body:
        if isinstance(node, (ast.If, ast.Try)):
            yield from _statements([*node.body, *node.orelse])
        else:
            yield node


@cache
def read_module(dotted: str) -> Module | None:
    """Return a module of this package by name; None if there is none or it belongs to another package."""
    parts = dotted.split(".")
    if parts[0] != PACKAGE or not all(part.isidentifier() for part in parts):
        return None
    base = _ROOT.joinpath(*parts[1:])
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return Module(dotted, path)
    return None


@cache
def read_signature(target: str) -> Signature:
    """Return the signature of a class or function of this package, from its source. Raises TargetError."""
    owner, node = find_definition(target)
    if isinstance(node, ast.ClassDef):
        return _class_signature(owner, node)
    if isinstance(node, ast.FunctionDef):
        return _function_signature(owner, node, skip_first=False)
    raise TargetError("is no class or function")


@cache
def read_constant(target: str, name: str) -> Any:
    """Return the literal that a class of this package or its nearest base gives its attribute `name`, or None.

    Raises TargetError.
    """
    owner, node = find_definition(target)
    return _class_constant(owner, node, name) if isinstance(node, ast.ClassDef) else None


def _class_constant(module: Module, node: ast.ClassDef, name: str) -> Any:
    for item in node.body:
        targets = (
            item.targets if isinstance(item, ast.Assign) else [item.target] if isinstance(item, ast.AnnAssign) else []
        )
        value = item.value if isinstance(item, (ast.Assign, ast.AnnAssign)) else None
        if value is not None and any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return _literal(module, value)
    for base in node.bases:
        found = module.find(base.id) if isinstance(base, ast.Name) else None
        if found is not None and isinstance(found[1], ast.ClassDef):
            inherited = _class_constant(found[0], found[1], name)
            if inherited is not None:
                return inherited
    return None


def find_definition(target: str) -> tuple[Module, ast.stmt]:
    """Return the module of this package that defines a target, and the statement. Raises TargetError."""
    parts = target.split(".")
    module, depth = None, 0
    for end in range(len(parts), 0, -1):
        module = read_module(".".join(parts[:end]))
        if module is not None:
            depth = end
            break
    if module is None or depth == len(parts):
        raise TargetError("names no class or function")
    name = parts[depth]
    found = module.find(name) if depth == len(parts) - 1 else None
    if found is None:
        rest = ".".join(parts[depth:])
        known = [*module.callables(), *module.children()]
        near = nearest(name, known)
        hint = f"; did you mean {module.dotted}.{near}?" if near else ""
        raise TargetError(f"there is no {rest} in {module.dotted}{hint} It has: {', '.join(known) or 'nothing'}")
    return found


def _class_signature(module: Module, node: ast.ClassDef) -> Signature:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _function_signature(module, item, skip_first=True, name=node.name)
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    parameters: dict[str, Parameter] = {}
    is_open = False
    for base in bases:
        found = module.find(base)
        if found is not None and isinstance(found[1], ast.ClassDef):
            inherited = _class_signature(found[0], found[1])
            parameters, is_open = dict(inherited.parameters), inherited.open
            break
    if "NamedTuple" in bases or any(_decorator_name(decorator) == "dataclass" for decorator in node.decorator_list):
        for item in node.body:
            if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)):
                continue
            if "ClassVar" not in ast.unparse(item.annotation):
                kind = parse_annotation(item.annotation, module.value)
                default = UNKNOWN if item.value is None else _literal(module, item.value)
                parameters[item.target.id] = Parameter(kind, item.value is None, default)
    return Signature(node.name, parameters, is_open)


def _function_signature(
    module: Module, node: ast.FunctionDef, *, skip_first: bool, name: str | None = None
) -> Signature:
    positional = [*node.args.posonlyargs, *node.args.args][1 if skip_first else 0 :]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = [*zip(positional, defaults, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    parameters = {
        argument.arg: Parameter(
            parse_annotation(argument.annotation, module.value),
            default is None,
            UNKNOWN if default is None else _literal(module, default),
        )
        for argument, default in pairs
    }
    return Signature(name or node.name, parameters, node.args.kwarg is not None)


def _literal(module: Module, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        value = module.value(node.id)
        return UNKNOWN if value is None else _literal(module, value)
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return UNKNOWN
    return value if isinstance(value, (bool, int, float, str, list, tuple, dict, type(None))) else UNKNOWN


def _decorator_name(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def locate(target: str) -> Any:
    """Import a target. Raises TargetError."""
    parts = target.split(".")
    found: Any = None
    for end in range(len(parts) - 1, 0, -1):
        dotted = ".".join(parts[:end])
        try:
            found = importlib.import_module(dotted)
        except ModuleNotFoundError as error:
            if error.name is not None and (dotted == error.name or dotted.startswith(error.name + ".")):
                continue
            raise
        for part in parts[end:]:
            if not hasattr(found, part):
                near = nearest(part, (name for name in dir(found) if not name.startswith("_")))
                hint = f"; did you mean {near}?" if near else ""
                raise TargetError(f"there is no {part} in {dotted}{hint}")
            found = getattr(found, part)
        return found
    raise TargetError(f"there is no module {parts[0]}")


def signature_of_object(name: str, found: Any) -> Signature:
    """Return the signature of an imported class or function."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return Signature(name, {}, open=True)
    parameters: dict[str, Parameter] = {}
    for key, parameter in signature.parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            parameters[key] = Parameter(required=parameter.default is parameter.empty)
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    return Signature(name, parameters, is_open)
