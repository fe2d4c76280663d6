"""Weights files of other projects: read without running their code, and matched to a module by name."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mltrain.errors import CheckpointError
from mltrain.safe_yaml import read_yaml

# Keys under which training scripts store weights in a checkpoint; averaged weights first, because they are evaluated.
CONTAINERS = ("state_dict_ema", "model_ema", "model", "state_dict")
# Prefixes that wrappers (DDP, torch.compile) add to names.
WRAPPERS = ("module.", "_orig_mod.")
BACKBONE, HEAD = "backbone.model.", "head."
"""prefixes of the two parts in the tensors of a `Classifier`"""

StateDict = dict[str, Tensor]

# Training scripts store settings and NumPy numbers beside the weights. Settings of other packages are read as plain
# dicts, whether the package is installed or not, and none of its code is called.
_SETTINGS = (
    "addict.addict.Dict",
    "easydict.EasyDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "yacs.config.CfgNode",
)


def _allowed() -> list[Any]:
    """Return the globals that a PyTorch file may refer to, besides those that torch itself allows."""
    scalar, array, kind = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0], np.dtype
    # NumPy 2 has `numpy._core` instead of NumPy 1's `numpy.core`
    numpy: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    numpy += [(array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    codes = ("?", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8", "U1")
    numpy += [np.ndarray, kind, *{type(kind(code)) for code in codes}]
    return [argparse.Namespace, *numpy, *((OrderedDict, name) for name in _SETTINGS)]


@dataclass(frozen=True)
class StoredWeights:
    """Tensors of a weights file or a run folder, and what is known of the classifier that they are of."""

    tensors: StateDict
    class_names: tuple[str, ...] = ()
    """in the order of the logits; empty where the file does not say"""
    head_settings: Mapping[str, Any] = field(default_factory=dict)
    """the section `head` of its config; empty where there is none"""
    origin: str = ""
    """which weights of a run these are; empty for a file that has one set"""

    @property
    def of_classifier(self) -> bool:
        """True if these are the tensors of a `Classifier`, with the classes of its head."""
        parts = (any(name.startswith(part) for name in self.tensors) for part in (BACKBONE, HEAD))
        return bool(self.class_names) and all(parts)

    def part(self, prefix: str) -> StateDict:
        """Return the tensors below a prefix, without it."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def note(self, report: LoadReport, wants_head: bool) -> str:
        """Return what a user should know of a backbone that was read from here, besides the report."""
        if self.of_classifier:
            origin = f" ({self.origin})" if self.origin else ""
            return origin if wants_head else f"{origin}; model.head_from_checkpoint=false: the head starts fresh"
        return "\n  only a backbone is read: the head starts untrained" if report.skipped else ""


@dataclass(frozen=True)
class LoadReport:
    """The result of `load_by_name`. Names are those of the module; in `skipped`, those of the file."""

    source: str
    loaded: tuple[str, ...]
    skipped: tuple[str, ...] = ()  # in the file, not in the module (such as the classifier of another task)
    reshaped: tuple[str, ...] = ()  # loaded after being resampled (position embeddings of another image size)
    missing: tuple[str, ...] = ()  # in the module, not in the file; they keep their initial values
    mismatched: tuple[str, ...] = ()  # in both, with other shapes ("name: file ..., model ..."); they keep theirs

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} tensors loaded"]
        for label in ("reshaped", "skipped", "missing", "mismatched"):
            names = getattr(self, label)
            if names:
                lines.append(f"  {label} {len(names)}: {listed(names)}")
        return "\n".join(lines)


def listed(names: Sequence[str], most: int = 8) -> str:
    """List the first names, and say how many more there are."""
    return ", ".join(names[:most]) + (f", ... ({len(names) - most} more)" if len(names) > most else "")


def read_state_dict(path: str | Path) -> StateDict:
    """Read the tensors by name of `read_stored`."""
    return read_stored(path).tensors


def read_stored(path: str | Path) -> StoredWeights:
    """Read weights from a `.safetensors` file, a PyTorch file (`.pt`, `.pth`, `.bin` ...) or a run folder.

    A PyTorch file may hold the tensors themselves or a checkpoint with them under `state_dict_ema`, `model_ema`,
    `model` or `state_dict` (the first found in this order). From a run folder, and from a checkpoint of a run, it takes
    the weights that validation chose, raw or EMA.

    Raises:
        CheckpointError: see `read_checkpoint`; or there are no tensors.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = _file_of_run(path)
    content = read_checkpoint(path)
    if isinstance(content, Mapping) and {"model", "ema", "best"} <= content.keys():
        return _of_run(content, path)
    state = tensors_of(content)
    if not state:
        raise CheckpointError(
            f"weights file {path}: found no tensors by name; expected a state dict, or a checkpoint with one under "
            f"{', '.join(CONTAINERS)}"
        )
    return _with_files_beside(state, path)


def read_checkpoint(path: str | Path) -> Any:
    """Read the content of a weights file with `weights_only=True`, which runs none of its code.

    It may contain tensors, plain data, NumPy numbers, and settings (such as `argparse.Namespace`), which become data.

    Raises:
        CheckpointError: no such file, not a weights file, or a pickle with other content.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"weights file {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"weights file {path}: not a readable safetensors file ({error})") from error
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {asked[1]}" if asked else "is damaged or holds more than tensors"
        raise CheckpointError(
            f"weights file {path}: refused, because it {what}, and reading that would run code from the file. Only "
            "tensors and plain data are read; if you trust it, convert it: `torch.save(model.state_dict(), ...)` or "
            "safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"weights file {path}: not a readable PyTorch file ({error})") from error


def tensors_of(content: Any) -> StateDict:
    """Return the tensors by name in the result of `read_checkpoint`; empty if there are none."""
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}


def _file_of_run(folder: Path) -> Path:
    best, converted = folder / "best.pt", folder / "model.safetensors"
    if not best.is_file() and not converted.is_file():
        raise CheckpointError(f"weights {folder}: a folder without best.pt or model.safetensors; name a run or a file")
    return best if best.is_file() else converted


def _of_run(content: Mapping[str, Any], path: Path) -> StoredWeights:
    """Take a checkpoint of a run apart."""
    try:
        best = content["best"] or {"weights": "val"}  # there is no best before the first evaluation
        averaged = best["weights"] == "ema"
        tensors = content["ema"]["module"] if averaged else content["model"]
        settings = (content.get("config") or {}).get("head") or {}
        return StoredWeights(
            dict(tensors),
            tuple(content.get("class_names") or ()),
            settings,
            "its EMA weights" if averaged else "its raw weights",
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"weights {path}: not a checkpoint of a run ({error} is missing)") from error


def _with_files_beside(tensors: StateDict, path: Path) -> StoredWeights:
    """Return tensors with the class names and the config that lie beside the file, as in a converted run."""
    classes, config = path.with_name("classes.txt"), path.with_name("config.yaml")
    if path.name != "model.safetensors" or not classes.is_file():
        return StoredWeights(tensors)
    try:
        names = tuple(classes.read_text(encoding="utf-8").splitlines())
        tree = read_yaml(config) if config.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"weights {path}: a file beside it cannot be read: {error}") from error
    settings = tree.get("head") if isinstance(tree, dict) else None
    return StoredWeights(tensors, names, settings if isinstance(settings, dict) else {})


def strip_wrappers(state: Mapping[str, Tensor]) -> StateDict:
    """Remove the prefixes that DDP and torch.compile add to names."""
    state = dict(state)
    for prefix in WRAPPERS * 2:
        if any(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def strip_prefix(state: Mapping[str, Tensor], names: set[str]) -> StateDict:
    """Remove the prefixes that wrappers and outer models add to the `names` of a module."""
    state = strip_wrappers(state)

    def inner(prefix: str) -> set[str]:
        return {k.removeprefix(prefix) for k in state if k.startswith(prefix)}

    # the outer prefix is the shortest of those whose removal makes the most names fit
    prefixes = {""} | {".".join(k.split(".")[:depth]) + "." for k in state for depth in (1, 2, 3)}
    best = max(sorted(prefixes, key=lambda p: (len(p), p)), key=lambda p: len(names & inner(p)))
    # if a name occurs inside and outside of the prefix, the one inside wins
    outside = {k: v for k, v in state.items() if not k.startswith(best) and k not in inner(best)}
    return {k.removeprefix(best): v for k, v in state.items() if k.startswith(best)} | outside


def load_by_name(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str = "weights",
    convert: Callable[[StateDict, nn.Module], StateDict] | None = None,
    partial: bool = False,
) -> LoadReport:
    """Copy `state` into `module` by name, and report what was loaded.

    Names that only the file has are skipped. A tensor that the file lacks or has in another shape is an error, unless
    `partial`: then it keeps its initial value. Batch counters of batch-norm may be missing. Nothing is copied before
    all checks have passed.

    Args:
        module: gets the weights.
        state: tensors by name, prefixes such as `module.` or `backbone.` allowed.
        source: the file's name, for messages.
        convert: renames and resamples the file's tensors for `module` (timm's `checkpoint_filter_fn`); used only if
            names or shapes do not fit.
        partial: accept missing and mismatched tensors.

    Raises:
        CheckpointError: nothing fits, or something is missing or mismatched and `partial` is false.
    """
    target = module.state_dict()
    state = strip_prefix(state, set(target))
    before = {k: v.shape for k, v in state.items()}

    def fits(key: str) -> bool:
        return key in state and state[key].shape == target[key].shape

    def needed(key: str) -> bool:
        return not key.endswith("num_batches_tracked")

    if convert is not None and not all(fits(k) for k in target if needed(k)):
        try:
            state = {k: v for k, v in convert(dict(state), module).items() if isinstance(v, Tensor)}
        except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise CheckpointError(
                f"{source}: made for another model: converting it failed ({type(error).__name__}: {error})"
            ) from error
    loaded = tuple(k for k in target if fits(k))
    report = LoadReport(
        source=source,
        loaded=loaded,
        skipped=tuple(k for k in state if k not in target),
        reshaped=tuple(k for k in loaded if k in before and before[k] != state[k].shape),
        missing=tuple(k for k in target if k not in state and needed(k)),
        mismatched=tuple(
            f"{k}: file {tuple(state[k].shape)}, model {tuple(target[k].shape)}"
            for k in target
            if k in state and not fits(k)
        ),
    )
    if not any(needed(k) for k in loaded):
        raise CheckpointError(f"{report}\n  no tensor fits the model: is it of the same architecture?")
    if (report.missing or report.mismatched) and not partial:
        raise CheckpointError(
            f"{report}\n  refused: every weight of the model must be in the file "
            "(model.partial_checkpoint=true loads what fits)"
        )
    module.load_state_dict({k: state[k] for k in loaded}, strict=False)
    return report
