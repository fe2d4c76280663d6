"""Check a whole config at once, before torch is imported and before data are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mltrain.config.identity import names_folder
from mltrain.config.interpolations import check_length, raw, references
from mltrain.config.own_code import NAMES, OPTION, make_importable
from mltrain.config.rules import RULES
from mltrain.config.schema import (
    DEFAULTS_FOR_OLDER_RUNS,
    INJECTED,
    LISTS,
    SECTIONS,
    SETTABLE,
    SWITCHABLE,
    Option,
    RootOptions,
    owner_of,
    section_options,
)
from mltrain.config.signatures import UNKNOWN, Signature, TargetError, read_signature
from mltrain.config.targets import Permission, component_signature, is_foreign, permission_problem
from mltrain.config.types import FINITE, Kind, is_finite
from mltrain.errors import ConfigError
from mltrain.text import counted, nearest, spell

Origin = Callable[[str], str]  # where a key was set, for the message; "" where unknown
_CHECKED = "checked"  # flag of a config whose paths.imports comes from the command line; no file can set it
_MISSING = "has no value yet (???); set it"
_MOST_VALUES = 100_000
_FOLDER_NAME = "names a folder below paths.runs: no absolute path, '..' or control character"
UNSET = "<no value: ???>"  # ??? in a file: OmegaConf itself would skip it where there is a default
_BROKEN = object()  # a value whose interpolation failed: reported once, judged no further


def check_config(cfg: DictConfig, *, allow_targets: Sequence[Any] = (), origin: Origin = lambda path: "") -> DictConfig:
    """Return the config resolved, with defaults filled in, in struct mode.

    `allow_targets` are the packages that the command line allows; what the config has there counts for nothing.

    Built-in sections are checked against the dataclasses of `schema`, components against their target's signature,
    which is read from source; a target of another package is imported, once everything else is found right.

    Raises:
        ConfigError: with every unknown, missing, misplaced or ill-typed key: its path, its value, what is allowed and
            the nearest valid name.
    """
    checked, problems = find_problems(cfg, allow_targets=allow_targets, origin=origin)
    if problems:
        raise ConfigError(message(problems))
    return checked


def check_options(section: type, given: dict[str, Any]) -> Any:
    """Return an instance of a dataclass of options, from those that a user gave. Raises ConfigError."""
    checker, options = _Checker(lambda path: ""), section_options(section)
    checker.options(given, options, "", frozenset(options))
    if checker.problems:
        raise ConfigError(message(checker.problems))
    return section(**given)


def message(problems: list[str]) -> str:
    head = f"{counted(len(problems), 'problem')} in the config:"
    return "\n".join([head, *("  " + problem.replace("\n", "\n      ") for problem in problems)])


def find_problems(
    cfg: DictConfig, *, allow_targets: Sequence[Any] = (), origin: Origin = lambda path: ""
) -> tuple[DictConfig, list[str]]:
    """Return the checked config and its problems; each text begins with the path of its key."""
    checker = _Checker(origin)
    check_length(cfg)
    tree = checker.resolve(cfg, "")
    tree.pop("hydra", None)
    checker.permit(tree, allow_targets)
    checker.root(tree)
    checked = OmegaConf.create(tree if not checker.found else {}, flags={"struct": True, _CHECKED: True})
    return checked, checker.problems


def permission_of(cfg: DictConfig) -> Permission:
    """Return the permission that `load` or `load_run` left in a checked config; a config of a file has none."""
    if not cfg._get_flag(_CHECKED):
        return Permission()
    return Permission(tuple(cfg.paths.imports))


class _Checker:
    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.found: list[tuple[str, str]] = []  # path, text
        self.references: dict[str, list[str]] = {}
        self.permission = Permission()
        self.open: list[int] = []  # containers that are being resolved
        self.count = 0
        self.names: dict[str, list[str]] = {}  # section -> its valid keys, to suggest from
        self.foreign: list[tuple[dict[str, Any], str, str]] = []  # components that only an import can judge

    @property
    def problems(self) -> list[str]:
        """Return all texts but those that repeat the problem of the key they refer to."""
        paths = {path for path, _ in self.found}
        return [text for path, text in self.found if paths.isdisjoint(self.references.get(path, ()))]

    def problem(self, path: str, text: str, *, value: Any = _BROKEN, allowed: Iterable[str] = ()) -> None:
        shown = path if value is _BROKEN else f"{path}={spell(value)}"
        where = self.origin(path)
        names = ", ".join(allowed)
        lines = [f"{shown}: {text}" + (f" ({where})" if where else ""), *([f"allowed: {names}"] if names else [])]
        self.found.append((path, "\n".join(lines)))

    def resolve(self, node: DictConfig | ListConfig, path: str) -> Any:
        """Return plain dicts and lists, interpolations resolved; one that fails is a problem and becomes `_BROKEN`."""
        keys: Iterable[Any] = node.keys() if isinstance(node, DictConfig) else range(len(node))
        items = []
        self.open.append(id(node))
        for key in keys:
            here = f"{path}.{key}" if path else str(key)
            if here == "hydra":
                continue
            self.references[here] = references(node, key)
            items.append((key, self.resolve_value(node, key, here)))
        self.open.pop()
        return dict(items) if isinstance(node, DictConfig) else [value for _, value in items]

    def resolve_value(self, node: DictConfig | ListConfig, key: Any, path: str) -> Any:
        self.count += 1
        if self.count > _MOST_VALUES:
            raise ConfigError(f"{path}: interpolations expand the config to more than {_MOST_VALUES:,} values")
        try:
            value = node[key]
        except RecursionError:
            return self.circle(node, key, path)
        except OmegaConfBaseException as error:
            missing = OmegaConf.is_missing(node, key)
            text = str(error).split("\n")[0]
            if text.startswith("Recursive"):
                return self.circle(node, key, path)
            self.problem(path, _MISSING if missing else f"cannot be resolved: {text}")
            return _BROKEN
        if value == UNSET:
            self.problem(path, _MISSING)
            return _BROKEN
        if not isinstance(value, (DictConfig, ListConfig)):
            return value
        if id(value) in self.open:
            return self.circle(node, key, path)
        return self.resolve(value, path)

    def circle(self, node: DictConfig | ListConfig, key: Any, path: str) -> Any:
        self.references.pop(path)  # or each would be left out as a repetition of the next
        self.problem(path, f"cannot be resolved: {raw(node, key)} leads in a circle")
        return _BROKEN

    def permit(self, tree: dict[str, Any], granted: Sequence[Any]) -> None:
        """Replace the packages that a file allows by those that the command line allows."""
        paths = tree.setdefault("paths", {})
        if not isinstance(paths, dict):
            return
        found = [paths.pop(name, None) for name in NAMES]
        paths[NAMES[0]] = list(granted)
        for package in granted:
            problem = permission_problem(package) or make_importable(package)
            if problem is not None:
                self.problem(OPTION, problem, value=package)
        in_files = (item for names in found if isinstance(names, list) for item in names if isinstance(item, str))
        self.permission = Permission(tuple(item for item in granted if isinstance(item, str)), tuple(in_files))

    def root(self, tree: dict[str, Any]) -> None:
        base = section_options(RootOptions)
        built_in = {name: section_options(section) for name, section in SECTIONS.items()}
        self.names = {name: sorted(options) for name, options in built_in.items()}
        for name in INJECTED:
            self.names[name] = self.component_names(name, tree.get(name))
        known = [*INJECTED, *SECTIONS, *base]
        for key in tree:
            if key not in known:
                self.unknown(str(key), key, known, tree[key])
        self.options(tree, base, "", only=frozenset(base))
        for name, options in built_in.items():
            self.built_in_section(tree, name, options)
        self.metrics(tree["metrics"])
        for name in LISTS:
            self.component_list(tree, name)
        for name in INJECTED:
            if name not in tree and name in DEFAULTS_FOR_OLDER_RUNS:  # the config of an older run
                tree[name] = dict(DEFAULTS_FOR_OLDER_RUNS[name])
            if name not in tree:
                self.problem(name, f"is missing; choose one with {name}=OPTION")
            elif tree[name] is not _BROKEN:
                tree[name] = self.component(tree[name], name, name)
        dataset = tree["dataset"].get("name") if isinstance(tree.get("dataset"), dict) else None
        for path, folder in (("name", tree["name"]), ("dataset.name", dataset)):
            if isinstance(folder, str) and not names_folder(folder):
                self.problem(path, _FOLDER_NAME, value=folder)
        for path, text in (problem for rule in RULES for problem in rule(tree)):
            section, _, key = path.partition(".")
            self.problem(path, text, value=tree[section][key] if key else _BROKEN)
        if not self.found:
            for node, path, section in self.foreign:
                self.component(node, path, section, foreign=True)

    def component_list(self, tree: dict[str, Any], name: str) -> None:
        """Check a list of components, such as callbacks, whose type `options` has checked."""
        *above, key = name.split(".")
        node = tree[above[0]] if above else tree
        items = node.get(key) if isinstance(node, dict) else None
        if not isinstance(items, list) or _contains_broken(items):
            return
        for index, item in enumerate(items):
            if isinstance(item, dict):
                items[index] = self.component(item, f"{name}.{index}", name)

    def component_names(self, section: str, node: Any) -> list[str]:
        try:
            signature = read_signature(node["_target_"])
        except (TargetError, TypeError, KeyError, AttributeError):
            return []
        return [name for name in signature.parameters if name not in _reserved(section)]

    def built_in_section(self, tree: dict[str, Any], name: str, options: dict[str, Option]) -> None:
        node = tree.setdefault(name, {})
        if node is _BROKEN:
            return
        if not isinstance(node, dict):
            allowed = (f"{name}.{key}" for key in options)
            self.problem(name, "is a section; set its options", value=node, allowed=allowed)
            return
        for key, value in node.items():
            if key not in options:
                self.unknown(f"{name}.{key}", key, sorted(options), value, section=name)
        self.options(node, options, name + ".", only=frozenset(options))

    def metrics(self, metrics: Any) -> None:
        """Check what a range alone cannot say: head begins where medium ends; a sigmoid is never 0 or 1."""
        known = metrics if isinstance(metrics, dict) else {}
        medium, head, threshold = (known.get(key) for key in ("medium_min", "head_min", "threshold"))
        if isinstance(medium, int) and isinstance(head, int) and medium > head:
            self.problem("metrics.medium_min", f"must not be above metrics.head_min={head}", value=medium)
        if threshold in (0, 1):
            self.problem("metrics.threshold", "must lie between 0 and 1, exclusive", value=threshold)

    def options(self, node: dict[str, Any], options: dict[str, Option], prefix: str, only: frozenset[str]) -> None:
        for key in only & node.keys():
            option, value = options[key], node[key]
            if self.typed(prefix + key, option.kind, value, option.range) and value is not None:
                least, most = option.least, option.most
                values = value if isinstance(value, list) else [value]
                # the negation also refuses NaN
                if (least is not None and not all(v >= least for v in values)) or (
                    most is not None and not all(v <= most for v in values)
                ):
                    self.problem(prefix + key, f"must be {option.kind}{option.range}", value=value)
                node[key] = option.kind.convert(value)
        for key, option in options.items():
            node.setdefault(key, option.default)

    def component(self, node: Any, path: str, section: str, *, foreign: bool = False) -> Any:
        """Check a `_target_` with its arguments; return it with defaults filled in.

        A component of another package is only noted, and checked in a second call with `foreign`, which imports it.
        """
        if not isinstance(node, dict):
            self.problem(path, f"must be a component; choose one with {section}=OPTION", value=node)
            return node
        if "_target_" not in node:
            how = f"write {section}=[{{_target_: PACKAGE.CLASS, OPTION: VALUE}}]" if section in LISTS else ""
            self.problem(path, f"has no _target_; {how or f'choose an option with {section}=OPTION'}")
            return node
        target = node["_target_"]
        if target is _BROKEN:
            return node
        if target is None:
            return self.switched_off(node, path, section)
        try:
            if not foreign and is_foreign(target, section, self.permission):
                self.foreign.append((node, path, section))
                self.nested(node, path, section)
                return node
            signature = component_signature(target, section, self.permission, nested=owner_of(path) != path)
        except TargetError as error:
            self.problem(f"{path}._target_", str(error), value=target)
            return node
        return self.bind(node, path, section, signature)

    def switched_off(self, node: dict[str, Any], path: str, section: str) -> dict[str, Any]:
        if section not in SWITCHABLE or path != section:
            self.problem(f"{path}._target_", "must name a class or function: this section cannot be off", value=None)
            return node
        for key in node.keys() - {"_target_"}:
            self.problem(f"{path}.{key}", f"cannot be set: {section} is switched off", value=node[key])
        return node

    def bind(self, node: dict[str, Any], path: str, section: str, signature: Signature) -> dict[str, Any]:
        injected, reserved = INJECTED.get(section, ()), _reserved(section)
        settable = sorted(name for name in signature.parameters if name not in reserved)
        for key in [key for key in node if key != "_target_"]:
            value, here = node[key], f"{path}.{key}"
            if key in reserved and key in signature.parameters:
                self.problem(here, "cannot be set: the program works it out and passes it", value=value)
            elif key in injected and value is None:
                continue  # the program gives its own value
            elif key in signature.parameters:
                kind = signature.parameters[key].kind
                if holds_target(value):
                    self.nested({key: value}, path, section)
                elif self.typed(here, kind, value):
                    node[key] = _listed(kind.convert(value))
            elif not signature.open:
                self.unknown(here, key, settable, value, section=section, owner=signature.name)
        for name, parameter in signature.parameters.items():
            if name in node or name in injected:
                continue
            if parameter.required:
                self.problem(f"{path}.{name}", f"is missing: {signature.name} needs it ({parameter.kind})")
            elif parameter.default is not UNKNOWN:
                node[name] = _listed(parameter.default)
        return node

    def nested(self, node: dict[str, Any], path: str, section: str) -> None:
        """Check components inside a component's arguments, at any depth."""
        for key, value in node.items():
            here = f"{path}.{key}"
            for index, item in enumerate(value) if isinstance(value, list) else [(None, value)]:
                place = here if index is None else f"{here}.{index}"
                if isinstance(item, dict):
                    if "_target_" in item:
                        self.component(item, place, section)
                    else:
                        self.nested(item, place, section)

    def typed(self, path: str, kind: Kind, value: Any, bounds: str = "") -> bool:
        if value is _BROKEN or _contains_broken(value):
            return False
        if kind.accepts(value):
            return True
        text = f"must be {kind}{bounds}" + ("" if is_finite(value) else f"; {FINITE}")
        if isinstance(value, str):
            near = nearest(value, [word for word in str(kind).split(" | ") if word.isidentifier()])
            if near and near not in ("int", "float", "string", "path"):
                text += f"; did you mean {path}={near}?"
        elif "string" in str(kind) and isinstance(value, (int, float)):
            in_file = ".yaml, line" in self.origin(path)
            quoted = f"{path.rpartition('.')[2]}: '{spell(value)}'" if in_file else f"\"{path}='{spell(value)}'\""
            text += f"; quote it: {quoted}"
        self.problem(path, text, value=value)
        return False

    def unknown(self, path: str, key: Any, known: list[str], value: Any, *, section: str = "", owner: str = "") -> None:
        """Report an unknown key, with the nearest key of its section, or else the same or a similar key elsewhere."""
        prefix = path[: len(path) - len(str(key))]
        near = nearest(str(key), known)
        same = next((f"{name}.{key}" for name, keys in self.names.items() if section and str(key) in keys), None)
        suggestion = same or (f"{prefix}{near}" if near else self.elsewhere(str(key), section))
        text = f"{owner} has no option {key}" if owner else f"there is no {path}"
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        self.problem(path, text + hint, value=value, allowed=known or ["nothing"])

    def elsewhere(self, key: str, section: str) -> str | None:
        others = {name: keys for name, keys in self.names.items() if name != section}
        known = {k for keys in others.values() for k in keys}
        if key not in known and section != "dataset":  # readers have options of their own: there similar is no hint
            key = nearest(key, sorted(known), cutoff=0.75) or ""
        return next((f"{name}.{key}" for name, keys in others.items() if key in keys), None)


def _reserved(section: str) -> set[str]:
    """Return the arguments of a component that the program alone gives."""
    return {name for name in INJECTED.get(section, ()) if f"{section}.{name}" not in SETTABLE}


def holds_target(value: Any) -> bool:
    """Return whether a value is a component or has one inside."""
    if isinstance(value, dict):
        return "_target_" in value or any(holds_target(item) for item in value.values())
    return isinstance(value, list) and any(holds_target(item) for item in value)


def _contains_broken(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(item is _BROKEN or _contains_broken(item) for item in items)


def _listed(value: Any) -> Any:
    """Return tuples as lists, because YAML has no tuples."""
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value
