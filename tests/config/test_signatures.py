"""Signatures and annotations read from source agree with what Python itself says."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import pytest

from mltrain.config.signatures import UNKNOWN, TargetError, locate, read_signature
from mltrain.config.targets import Permission, component_signature
from mltrain.config.types import parse_annotation
from mltrain.text import spell

CASES: list[tuple[str, list[Any], list[Any]]] = [
    ("int", [0, -3], [True, 1.0, "1", None]),
    ("float", [0, 1.5], [True, "1.0", None, float("inf"), float("nan")]),
    ("bool", [True, False], [0, 1, "true", None]),
    ("str", ["", "a"], [1, None, True]),
    ("int | None", [1, None], [1.5, "x"]),
    ("float | None", [1, None], ["x"]),
    ("Literal['a', 'b']", ["a"], ["c", None]),
    ("Literal[1, 2] | None", [1, None], [True, 3, "1"]),
    ("list[int]", [[], [1, 2]], [[1.5], 1, "12"]),
    ("Sequence[float]", [[1, 2.5]], [["x"]]),
    ("tuple[float, float]", [[0.9, 1]], [[0.9], [0.9, 1, 1], 0.9]),
    ("tuple[int, ...]", [[], [1, 2, 3]], [["x"]]),
    ("dict[str, float]", [{"a": 1}], [{"a": "x"}, [1]]),
    ("str | os.PathLike[str]", ["x"], [3]),
    ("list[tuple[int, str]]", [[[1, "a"]]], [[["a", 1]]]),
    ("torch.Tensor", [1, "x", None], []),
    ("int | SomethingElse", ["x", None], []),
]


@pytest.mark.parametrize(("annotation", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_values_are_judged_by_the_annotation(annotation: str, good: list[Any], bad: list[Any]) -> None:
    kind = parse_annotation(annotation)
    assert [value for value in good if not kind.accepts(value)] == []
    assert [value for value in bad if kind.accepts(value)] == []


def test_values_are_converted_to_what_the_annotation_says() -> None:
    assert type(parse_annotation("float").convert(1)) is float
    assert type(parse_annotation("float | None").convert(1)) is float
    assert type(parse_annotation("int | float").convert(1)) is int
    assert parse_annotation("float | None").convert(None) is None
    assert parse_annotation("tuple[float, float]").convert([1, 2]) == (1.0, 2.0)
    assert parse_annotation("list[tuple[int, ...]] | None").convert([[1]]) == [(1,)]


def test_values_are_shown_as_the_command_line_writes_them() -> None:
    assert spell({"a": [True, None, 0.5, "x"], "b": ""}) == "{a: [true, null, 0.5, x], b: ''}"


TARGETS = [
    "mltrain.losses.AsymmetricLoss",
    "mltrain.losses.asl.AsymmetricLoss",
    "mltrain.models.heads.ml_decoder.MLDecoder",
    "mltrain.models.backbone.create_backbone",
    "mltrain.optim.optimizers.adamw",
    "mltrain.optim.OneCycle",
    "mltrain.datasets.coco.coco",
    "mltrain.pipeline.augment.TrainAugment",
    "mltrain.pipeline.samplers.UniformSampler",
    "mltrain.config.schema.RunnerOptions",
]


@pytest.mark.parametrize("target", TARGETS)
def test_a_signature_read_from_source_equals_that_of_the_imported_object(target: str) -> None:
    read = read_signature(target)
    real = inspect.signature(locate(target)).parameters
    assert list(read.parameters) == list(real)
    for name, parameter in read.parameters.items():
        assert parameter.required == (real[name].default is inspect.Parameter.empty), name
        if parameter.default is not UNKNOWN:
            assert parameter.default == real[name].default, name


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mltrain", "names no class"),
        ("mltrain.losses", "names no class"),
        ("mltrain.losses.asl.AsymetricLoss", "did you mean mltrain.losses.asl.AsymmetricLoss"),
        ("mltrain.losses.asl.AsymmetricLoss.forward", "there is no AsymmetricLoss.forward"),
        ("mltrain.losses.asl.Tensor", "there is no Tensor"),  # imported there, from another package
        ("mltrain.config.overrides.CONFIGS", "is no class or function"),
        ("mltrain..losses", "there is no"),
        ("nothing.at.all", "names no class"),
    ],
)
def test_a_target_that_is_not_there_is_refused_with_the_nearest(target: str, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        read_signature(target)
    assert message in str(caught.value)


def test_a_signature_of_another_package_is_read_by_importing_it() -> None:
    read = component_signature("torch.nn.BCEWithLogitsLoss", "loss", Permission())
    assert "pos_weight" in read.parameters
    with pytest.raises(TargetError, match="did you mean BCEWithLogitsLoss"):
        component_signature("torch.nn.BCEWithLogitLoss", "loss", Permission())
    with pytest.raises(TargetError, match="is no class or function"):
        component_signature("torch.nn.functional.math.sqrt", "loss", Permission())
    with pytest.raises(TargetError, match="is defined in"):
        component_signature("torch.nn.modules.module.OrderedDict", "loss", Permission())


def test_aliases_are_followed() -> None:
    alias = ast.parse("Literal['sum', 'mean']", mode="eval").body
    kind = parse_annotation("Reduction | None", lambda name: alias if name == "Reduction" else None)
    assert kind.accepts("sum") and kind.accepts(None) and not kind.accepts("max")
    reduction = read_signature("mltrain.losses.AsymmetricLoss").parameters["reduction"].kind
    assert reduction.accepts("sum") and not reduction.accepts("summ")
