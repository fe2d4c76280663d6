"""Classifiers in files that need no mltrain: ONNX and torch.export, checked against PyTorch before they are saved."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.errors import ConfigError, MltrainError
from mltrain.files import atomic_write, temporary_folder
from mltrain.models.classifier import Classifier
from mltrain.sizes import ImageSize, height_width

logger = logging.getLogger(__name__)

Input = Literal["uint8", "float", "normalised"]
Task = Literal["multi_label", "single_label"]

OUTPUTS = ("logits", "probabilities")
BATCHES = (1, 2, 5)
"""batch sizes at which a file is checked"""
OPSET = 18
"""of ONNX; ONNX Runtime 1.14 and later read it"""
MOST_BYTES = 2_000_000_000
"""limit for the weights in one ONNX file, since protobuf has a limit of 2 GiB"""
METADATA = "metadata.json"
"""name of the metadata inside a .pt2"""


@dataclass(frozen=True)
class Parity:
    """The largest difference between the logits of an exported file and PyTorch's, over all images and classes."""

    difference: float
    allowed: float
    spread: float
    """largest range of the logits of a class over the images"""

    def __str__(self) -> str:
        return (
            f"logits within {self.difference:.1e} of PyTorch's (allowed {self.allowed:.1e}, spread {self.spread:.2g})"
        )


class Exportable(nn.Module):
    """A classifier whose outputs have names: images `(B, 3, H, W)` -> logits and probabilities `(B, C)`.

    `input` is the kind of images: ``uint8`` or ``float`` with values 0..255, which are normalised inside, or
    ``normalised`` floats, (image / 255 - mean) / std.
    """

    def __init__(self, model: Classifier, *, input: Input, task: Task) -> None:
        super().__init__()
        self.model = model
        self.normalised = input == "normalised"
        self.softmax = task == "single_label"

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.normalised:
            logits = self.model.classify(self.model.backbone(images))
        else:
            logits = self.model(images.float())
        probabilities = F.softmax(logits, 1) if self.softmax else torch.sigmoid(logits)
        return {"logits": logits, "probabilities": probabilities}


def export_classifier(
    model: Classifier,
    path: str | Path,
    *,
    task: Task = "multi_label",
    input: Input = "uint8",
    metadata: Mapping[str, Any] | None = None,
    images: Tensor | None = None,
    image_size: ImageSize | None = None,
) -> Parity:
    """Write a classifier as `.onnx` or, by `torch.export`, as `.pt2`; for any batch size and one image size.

    The file has one input, `images`, and two outputs, `logits` and `probabilities` (sigmoid, or softmax for single
    labels). Weights are fp32. Before the file gets its name it is read back and run at batch sizes 1, 2 and 5, ONNX
    with ONNX Runtime: if its logits differ from PyTorch's by more than a thousandth of their range over the images,
    nothing is written.

    Args:
        model: in evaluation mode, on the CPU.
        path: its suffix selects the format.
        task: determines the probabilities.
        input: kind of images, see `Exportable`.
        metadata: stored in the file; in ONNX as strings, other values as JSON; in a `.pt2` as `metadata.json`.
        images: uint8 `(B, 3, H, W)` for the check; None: random images.
        image_size: H and W, pixels; None: those of the model.

    Raises:
        ConfigError: another suffix, a package is missing, or the model is too large for ONNX.
        MltrainError: the model cannot be exported, the file's outputs differ, or it cannot be written.
        ValueError: the model is in training mode, or `images` are not images.
    """
    path = Path(path)
    suffix = path.suffix
    if suffix not in (".onnx", ".pt2"):
        raise ConfigError(f"{path}: the name must end in .onnx (ONNX) or .pt2 (torch.export)")
    if suffix == ".onnx":
        require_onnx()
        size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        if size > MOST_BYTES:
            raise ConfigError(f"{path}: {size / 1e9:.1f} GB of weights are too much for one ONNX file; write a .pt2")
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    height, width = height_width(image_size or model.backbone.image_size)
    images = random_images(max(BATCHES), (height, width)) if images is None else images
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, height, width) or not len(images):
        found = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"images: must be uint8 (B, 3, {height}, {width}), found {found}")
    program = _trace(Exportable(model, input=input, task=task), _prepared(model, images[:1], input))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The folder lets the file have its final name, because a .pt2 contains the name under which it is written.
        with temporary_folder(path.parent / "export") as folder:
            written = folder / path.name
            _write(program, written, dict(metadata or {}))
            parity = _check(model, written, images, input, task)
            with atomic_write(path) as temporary:
                written.replace(temporary)
    except OSError as error:
        raise MltrainError(f"{path}: cannot be written: {error.strerror or error}") from error
    return parity


def require_onnx() -> None:
    """Raise ConfigError if a package is missing that writing ONNX needs."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs {', '.join(missing)}: pip install 'mltrain-vision[export]'; a .pt2 file needs none of it"
        )


def random_images(count: int, size: ImageSize) -> Tensor:
    """Return uint8 `(count, 3, H, W)`, always the same: patches of random colours of another size per image."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for k in range(count):
        cells = 2 ** (k % 5 + 1)
        colours = torch.rand(1, 3, cells, cells, generator=generator)
        images.append(F.interpolate(colours, height_width(size), mode="bilinear", align_corners=False))
    return (torch.cat(images) * 255).round().to(torch.uint8)


def _prepared(model: Classifier, images: Tensor, input: Input) -> Tensor:
    """Convert raw images to this kind of `input`."""
    if input == "uint8":
        return images
    return model.normalize(images) if input == "normalised" else images.float()


def _trace(module: Exportable, example: Tensor) -> torch.export.ExportedProgram:
    # with a single image torch would make the batch size a constant
    example = example.expand(2, -1, -1, -1).contiguous()
    shapes = {"images": {0: torch.export.Dim("batch")}}
    with _quiet(), torch.no_grad():
        try:
            program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # the code of a model may raise anything under tracing
            raise _cannot("torch.export", module.model, error) from error
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # has paths of this machine, which both formats would store
    return program


def _write(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    if path.suffix == ".pt2":
        with _quiet():
            torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata, ensure_ascii=False)})
        return
    with _quiet():
        try:
            converted = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["images"],
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # as above
            raise _cannot("torch.onnx.export", program, error, "; a .pt2 does without it") from error
    assert converted is not None
    proto = converted.model_proto
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"  # the exporter's own name is s34 or similar
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    path.write_bytes(proto.SerializeToString())


def _check(model: Classifier, path: Path, images: Tensor, input: Input, task: Task) -> Parity:
    """Compare the results of the file with PyTorch's."""
    run = _load_onnx(path) if path.suffix == ".onnx" else _load_pt2(path)
    rows = max(max(BATCHES), len(images))
    images = images.repeat(-(-rows // len(images)), 1, 1, 1)[:rows]
    with torch.no_grad():
        # one image at a time, so that the reference does not depend on the batch
        expected = torch.cat([model(image[None]) for image in images]).float().numpy()
    if not np.isfinite(expected).all():
        raise MltrainError("not exported: PyTorch's own logits are not finite; the weights are damaged")
    spread = float(np.ptp(expected, axis=0).max())
    allowed = max(1e-3 * spread, 1e-5 * float(np.abs(expected).max()))
    difference = 0.0
    for batch in BATCHES:
        for start in range(0, rows - batch + 1, batch):
            part = slice(start, start + batch)
            logits, probabilities = run(_prepared(model, images[part], input).numpy())
            if logits.shape != expected[part].shape:
                raise _differs(f"logits of shape {logits.shape} instead of {expected[part].shape}")
            own = torch.from_numpy(logits)
            own = own.softmax(1) if task == "single_label" else own.sigmoid()
            if not np.allclose(probabilities, own.numpy(), rtol=1e-4, atol=1e-6):
                raise _differs("its probabilities are not those of its logits")
            difference = max(difference, float(np.nan_to_num(np.abs(logits - expected[part]), nan=np.inf).max()))
    parity = Parity(difference, allowed, spread)
    if difference > allowed:
        raise _differs(str(parity))
    return parity


def _load_onnx(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of ONNX Runtime have no common base
        raise MltrainError(f"not exported: ONNX Runtime cannot read the file: {_first_line(error)}") from error

    def run(images: np.ndarray) -> list[np.ndarray]:
        try:
            outputs: list[np.ndarray] = session.run(list(OUTPUTS), {"images": images})
        except Exception as error:  # as above
            raise _differs(f"it cannot take a batch of {len(images)}: {_first_line(error)}") from error
        return outputs

    return run


def _load_pt2(path: Path) -> Any:
    with _quiet():
        module = torch.export.load(path).module()

    def run(images: np.ndarray) -> list[np.ndarray]:
        try:
            with torch.no_grad():
                outputs = module(torch.from_numpy(images))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise _differs(f"it cannot take a batch of {len(images)}: {_first_line(error)}") from error
        return [outputs[name].numpy() for name in OUTPUTS]

    return run


def _differs(what: str) -> MltrainError:
    return MltrainError(f"not exported: the file does not do what the model does: {what}; nothing was written")


def _cannot(step: str, model: object, error: Exception, advice: str = "") -> MltrainError:
    name = type(model.backbone.model).__name__ if isinstance(model, Classifier) else "the model"
    return MltrainError(
        f"not exported: {step} of PyTorch {torch.__version__} cannot convert {name}{advice} "
        f"({type(error).__name__}: {_first_line(error)})"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' messages about their own work."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [item.level for item in loggers]
    for item in loggers:
        item.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for item, level in zip(loggers, levels, strict=True):
            item.setLevel(level)
