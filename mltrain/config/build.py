"""Build components from their config sections."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from mltrain.config.check import holds_target, permission_of
from mltrain.config.compose import load, load_run
from mltrain.config.schema import INJECTED, owner_of, section_of
from mltrain.config.signatures import PACKAGE, Signature, TargetError, locate
from mltrain.config.targets import Permission, component_signature
from mltrain.config.types import ANY, FINITE, is_finite
from mltrain.datasets.division import read_divided
from mltrain.datasets.splits import Splits
from mltrain.errors import ConfigError, MltrainError, described
from mltrain.text import nearest, spell

__all__ = ["instantiate", "load", "load_run"]


def instantiate(section: DictConfig | dict[str, Any], path: str, **injected: Any) -> Any:
    """Call the target of a component section with its options and those `injected` values that it names.

    `path` is the section (`loss`), for messages and for what may be injected there (`schema.INJECTED`). Returns None
    for a section that is switched off. Lists become tuples where the target says so; components inside options are
    built first. Raises ConfigError, naming the path, for options that do not fit or that the target refuses with a
    ValueError or TypeError.
    """
    stray = sorted(injected.keys() - set(INJECTED.get(section_of(path), ())))
    if stray:
        raise ValueError(f"{', '.join(stray)} cannot be injected in {path}: not in mltrain.config.schema.INJECTED")
    if isinstance(section, DictConfig):
        root = section._get_root()
        permission = permission_of(root) if isinstance(root, DictConfig) else Permission()
        return _build(OmegaConf.to_container(section, resolve=True), path, injected, permission)
    return _build(section, path, injected, Permission())


def _build(node: Any, path: str, injected: dict[str, Any], permission: Permission) -> Any:
    if isinstance(node, list):
        return [_build(item, f"{path}.{index}", injected, permission) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: _build(value, f"{path}.{key}", injected, permission) for key, value in node.items()}
    target = node["_target_"]
    if target is None:
        return None
    try:
        signature = component_signature(target, section_of(path), permission, nested=owner_of(path) != path)
        call = locate(target)
    except TargetError as error:
        raise ConfigError(f"{path}._target_={target}: {error}") from error
    node = {key: value for key, value in node.items() if key not in injected}  # what may be set, the caller has read
    for key, value in node.items():
        kind = signature.parameters[key].kind if key in signature.parameters else ANY
        if key != "_target_" and not holds_target(value) and not kind.accepts(value):
            finite = "" if is_finite(value) else f"; {FINITE}"
            raise ConfigError(f"{path}.{key}={spell(value)}: must be {kind}{finite}")
    options = {
        key: _build(value, f"{path}.{key}", injected, permission) for key, value in node.items() if key != "_target_"
    }
    arguments = _bind(signature, options, injected, path)
    where = f"{path} ({target})"
    try:
        if path == "dataset":
            return _splits(read_divided(call, arguments, signature.parameters.keys() - signature.added))
        late = {key: arguments.pop(key) for key in signature.added & arguments.keys()}
        made = call(**arguments)
        return made if target.startswith(f"{PACKAGE}.") else _adapted(made, late, path, where, injected)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
    except OSError as error:  # a file that may not be read, a folder instead of a file
        raise ConfigError(f"{where}: cannot read or write: {error}") from error
    except MltrainError:
        raise
    except Exception as error:
        if target.startswith(f"{PACKAGE}."):
            raise
        raise ConfigError(f"{where}: {described(error)}") from error


def _splits(made: Any) -> Splits:
    if not isinstance(made, Splits):
        raise TypeError(f"returned {type(made).__qualname__}, not mltrain.datasets.splits.Splits(train, val, test)")
    return made


def _adapted(made: Any, options: dict[str, Any], path: str, where: str, injected: dict[str, Any]) -> Any:
    """Return a component of another package under the contract of its section."""
    if path == "model":
        from mltrain.models.own_backbone import wrap_backbone  # torch, which other sections do not need

        try:
            return wrap_backbone(made, **options)
        except ConfigError as error:
            raise ConfigError(f"{where}: cannot serve as a backbone: {error}") from error
    if path in ("augment", "eval_resize"):
        from mltrain.pipeline.own_transform import OwnTransform

        return OwnTransform(made, image_size=injected["image_size"], where=where, draws=path == "augment")
    return made


def _bind(signature: Signature, options: dict[str, Any], injected: dict[str, Any], path: str) -> dict[str, Any]:
    for key in options:
        if key not in signature.parameters and not signature.open:
            near = nearest(key, signature.parameters)
            hint = f"; did you mean {path}.{near}?" if near else ""
            raise ConfigError(f"{path}.{key}: {signature.name} has no option {key}{hint}")
    given = {name: value for name, value in injected.items() if name in signature.parameters}
    missing = [name for name in signature.required if name not in options and name not in given]
    if missing:
        raise ConfigError(f"{path}: {signature.name} needs {', '.join(missing)}")
    parameters = signature.parameters
    converted = {
        k: parameters[k].kind.convert(v) if k in parameters and parameters[k].kind.accepts(v) else v
        for k, v in options.items()
    }
    return {**converted, **given}
