"""Components that a config may name: for each section a kind of class or function, from a few modules.

A config is data: it may come from somebody else, in a run folder, a recipe or a file of models. So a `_target_` must be
of its section's kind, and what loads, saves, downloads or executes is of no kind. More packages are allowed by the
command line of this call (or an argument of the Python function), never by a file.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from mltrain.config.own_code import GIVEN, OPTION
from mltrain.config.schema import DEFAULTS_FOR_OLDER_RUNS
from mltrain.config.signatures import (
    PACKAGE,
    Parameter,
    Signature,
    TargetError,
    find_definition,
    locate,
    read_signature,
    signature_of_object,
)
from mltrain.errors import described


@dataclass(frozen=True)
class ComponentKind:
    """The components of a section."""

    meaning: str
    """of a target, for messages"""
    home: tuple[str, ...]
    """modules and packages of ours that define them"""
    returns: tuple[str, ...] = ()
    """annotations of what our functions return; empty: our components are classes"""
    takes: str | None = None
    """an argument that each of ours has"""
    base: str | None = None
    """class that those of other packages derive from"""
    others: tuple[str, ...] = ()
    """modules of other packages that define such classes"""
    any_class: bool = False
    """classes of allowed packages need no base"""
    nests: bool = False
    """their options may hold components of the same kind"""


_MODULE = "torch.nn.Module"
_TRANSFORM = "torchvision.transforms.v2.Transform"
_TRANSFORMS = ("torchvision.transforms.v2.",)
_CALLBACK = ComponentKind("a mltrain.callbacks.Callback", ("mltrain.callbacks",), base="mltrain.callbacks.Callback")
KINDS: dict[str, ComponentKind] = {
    "dataset": ComponentKind("a function that returns Splits", ("mltrain.datasets",), ("Splits",), takes="name"),
    "partial": ComponentKind(
        "a function of labels that returns a LabelSet",
        ("mltrain.datasets.partial", "mltrain.datasets.unseen"),
        ("LabelSet",),
        takes="labels",
    ),
    "model": ComponentKind("a function that returns a Backbone", ("mltrain.models.backbone",), ("Backbone",)),
    "head": ComponentKind(
        f"a {_MODULE}",
        ("mltrain.models.heads",),
        base=_MODULE,
        others=("torch.nn.modules.", "timm.layers."),
        nests=True,
    ),
    "loss": ComponentKind(
        f"a {_MODULE}", ("mltrain.losses",), base=_MODULE, others=("torch.nn.modules.", "timm.loss."), nests=True
    ),
    "sampler": ComponentKind("a sampler class", ("mltrain.pipeline.samplers",), takes="labels"),
    "curriculum": ComponentKind("a curriculum class", ("mltrain.curriculum",), takes="labels"),
    "augment": ComponentKind(
        f"an augmentation class, or a {_TRANSFORM}",
        ("mltrain.pipeline.augment",),
        base=_TRANSFORM,
        any_class=True,
        others=_TRANSFORMS,
        nests=True,
    ),
    "eval_resize": ComponentKind(
        f"a resize class, or a {_TRANSFORM}",
        ("mltrain.pipeline.augment",),
        base=_TRANSFORM,
        any_class=True,
        others=_TRANSFORMS,
        nests=True,
    ),
    "mix": ComponentKind("a class that mixes batches", ("mltrain.pipeline.mix",)),
    "optimizer": ComponentKind(
        "a torch.optim.Optimizer, or a function that returns one",
        ("mltrain.optim.optimizers",),
        ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD", "torch.optim.Optimizer"),
        takes="model",
        base="torch.optim.Optimizer",
        others=("torch.optim.", "timm.optim."),
    ),
    "schedule": ComponentKind("a schedule class", ("mltrain.optim.schedules",), takes="steps_per_epoch"),
    "ema": ComponentKind("a class that averages weights", ("mltrain.optim.ema",), takes="model"),
    "callbacks": _CALLBACK,
    "logger.callbacks": _CALLBACK,
    "metrics.own": ComponentKind("a class of yours whose objects are called with (logits, targets)", ()),
}
# Packages that the command line cannot allow either: KINDS has what a config may name of them.
_FIXED = frozenset(
    {PACKAGE, "torch", "torchvision", "timm", "hydra", "hydra_plugins", "omegaconf", "yaml", "numpy", "PIL", "builtins"}
)


DIVISION = "mltrain.datasets.division.Division"
WRAPPER = "mltrain.models.own_backbone.wrap_backbone"


@dataclass(frozen=True)
class Permission:
    """Packages that this call allows besides `KINDS`, and those that a file asked for in vain."""

    packages: tuple[str, ...] = ()
    in_files: tuple[str, ...] = ()

    def covers(self, dotted: str) -> bool:
        return _within(dotted, self.packages)

    def advice(self, target: str) -> str:
        """Return how to allow a target, for a message."""
        package = target.partition(".")[0]
        if package == GIVEN:
            return (
                "it was an object of a Python program, and only the run that mltrain.train() returns there can use it; "
                "for other programs and commands put its class into a file: docs/own_parts"
            )
        if _within(target, self.in_files):
            names = ",".join(dict.fromkeys([*self.packages, *self.in_files]))
            return f"{OPTION} in a file has no effect; if you trust that code, add to the command: {OPTION}=[{names}]"
        if "." not in target or permission_problem(package) is not None:
            return f"{OPTION}=[PACKAGE] on the command line allows one of yours"
        names = ",".join([*self.packages, package])
        return f"if {package} is your own or you trust it, add to the command: {OPTION}=[{names}]"


def permission_problem(package: Any) -> str | None:
    """Return why the command line cannot allow a package, or None."""
    if not isinstance(package, str) or not all(part.isidentifier() for part in package.rstrip(".").split(".")):
        return "must be names of packages"
    root = package.partition(".")[0]
    if root in sys.stdlib_module_names or root in _FIXED:
        return f"{root} has functions that no config may call; name a package of your own components"
    return None


def is_foreign(target: Any, section: str, permission: Permission) -> bool:
    """Return whether a target may be of another package, so that only its import can judge it."""
    if not isinstance(target, str) or _within(target, (PACKAGE,)):
        return False
    names = (*KINDS[section].others, *(_public(name) for name in KINDS[section].others))
    return permission.covers(target) or target.startswith(names)


def component_signature(target: Any, section: str, permission: Permission, *, nested: bool = False) -> Signature:
    """Return the signature of a `_target_` of a section. Imports it if it is of another package.

    Raises TargetError if it does not exist, or is not what the section takes.
    """
    kind = KINDS[section]
    if not isinstance(target, str):
        raise TargetError(f"must be the dotted name of a class or function, e.g. {PACKAGE}.losses.AsymmetricLoss")
    if _within(target, (PACKAGE,)):
        signature = read_signature(target)  # first: a misspelt name of ours gets its suggestion
        _check_own(target, section, signature, permission)
    elif is_foreign(target, section, permission):
        signature = import_component(target, section, permission)
    else:
        raise TargetError(_refusal(target, section, permission))
    if nested and not kind.nests and not permission.covers(target):
        raise TargetError(f"cannot stand inside an option: options of {section} are plain values")
    if section == "dataset":
        return with_division(signature)
    return _with_wrapper(signature) if section == "model" and not _within(target, (PACKAGE,)) else signature


def with_division(signature: Signature) -> Signature:
    """Return the signature of a reader with the options that every data set has (`mltrain.datasets.division`).

    Those that only some readers have themselves have no default here: filling it in would change the ids of runs.
    """
    own = signature.parameters
    more = read_signature(DIVISION).parameters
    late = {name: item if f"dataset.{name}" in DEFAULTS_FOR_OLDER_RUNS else Parameter(item.kind, required=False)
            for name, item in more.items() if name not in own}  # fmt: skip
    return replace(signature, parameters=own | late, added=frozenset(late))


def _with_wrapper(signature: Signature) -> Signature:
    """Return the signature of a backbone of another package with the options of `wrap_backbone`."""
    own = signature.parameters
    more = {k: p for k, p in read_signature(WRAPPER).parameters.items() if k != "made" and k not in own}
    late = {name: Parameter(item.kind, required=False) for name, item in more.items()}
    return replace(signature, parameters=own | late, added=frozenset(late))


def _check_own(target: str, section: str, signature: Signature, permission: Permission) -> None:
    kind, (module, node) = KINDS[section], find_definition(target)
    rooms = {".".join(name.split(".")[:2]) for name in kind.home}
    if not _within(module.dotted, kind.home) or not _within(target, rooms):
        raise TargetError(_refusal(target, section, permission))
    if isinstance(node, ast.FunctionDef):
        fits = node.returns is not None and ast.unparse(node.returns) in kind.returns
    else:
        fits = not kind.returns
    private = any(part.startswith("_") for part in [*target.split("."), *module.dotted.split(".")])
    if private or not fits or (kind.takes is not None and kind.takes not in signature.parameters):
        raise TargetError(f"is not what {section} takes: {kind.meaning}")


def import_component(target: str, section: str, permission: Permission) -> Signature:
    """Return the signature of a target of another package by importing it. Raises TargetError.

    Its defining module counts: `torch.nn.os.system` is reached through torch, yet is not torch's.
    """
    kind = KINDS[section]
    try:
        found = locate(target)
    except TargetError:
        raise
    except ImportError as error:
        raise TargetError(f"cannot be imported: {error}") from error
    except Exception as error:  # its module is the user's code
        raise TargetError(f"cannot be imported: {described(error)}") from error
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise TargetError("is no class or function")
    home = f"{found.__module__}."
    trusted = permission.covers(str(found.__module__))
    if not (trusted or home.startswith(kind.others)):
        raise TargetError(
            f"is defined in {found.__module__}, which a config may not name for {section}; {permission.advice(target)}"
        )
    factory = trusted and (inspect.isfunction(found) or kind.any_class)
    if kind.base is not None and not factory and not (inspect.isclass(found) and issubclass(found, locate(kind.base))):
        raise TargetError(f"is not what {section} takes: {kind.meaning}")
    return signature_of_object(target.rsplit(".", 1)[-1], found)


def _refusal(target: str, section: str, permission: Permission) -> str:
    kind = KINDS[section]
    places = ", ".join(f"{name}.*" for name in (*kind.home, *map(_public, kind.others), *permission.packages))
    may = f": {places}" if places else ", where every part is one of yours"
    return f"is not among the packages a config may name for {section}{may} ({permission.advice(target)})"


def _public(module: str) -> str:
    """Return the package that users name: torch.nn of torch.nn.modules."""
    return module.rstrip(".").removesuffix(".modules")


def _within(dotted: str, packages: Iterable[str]) -> bool:
    return any((dotted + ".").startswith(name.rstrip(".") + ".") for name in packages)
