"""Training from Python: `from mltrain import train`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mltrain import console
from mltrain.callbacks import Callback
from mltrain.config.compose import load
from mltrain.config.identity import run_folder
from mltrain.config.own_code import GIVEN
from mltrain.datasets.splits import Splits
from mltrain.labels import LabelSet
from mltrain.runs.given import give
from mltrain.runs.predictor import Predictor
from mltrain.runs.train import train as train_config
from mltrain.text import spell


@dataclass(frozen=True)
class TrainedRun:
    """A finished training."""

    folder: Path
    """run folder, which every command takes"""
    result: Mapping[str, Any]
    """the content of result.json; empty on processes other than the main one"""
    imports: tuple[str, ...] = ()
    """packages that the config may name"""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Figures of the best weights on the validation split, in percent: `metrics["map"]`."""
        figures: Mapping[str, float] = self.result[self.result["best"]["weights"]]
        return figures

    @property
    def test_metrics(self) -> Mapping[str, float] | None:
        """The same on the test split; None if there is none."""
        test = self.result.get("test")
        return None if test is None else test[self.result["best"]["weights"]]

    def predictor(self, **options: Any) -> Predictor:
        """Return a `Predictor` of the best weights; `options` are those of `Predictor.from_run`."""
        return Predictor.from_run(self.folder, allow_targets=self.imports, **options)


def train(
    *overrides: str,
    data: Splits | Sequence[LabelSet] | None = None,
    model: nn.Module | None = None,
    loss: nn.Module | None = None,
    augment: Callable[[Any], Any] | None = None,
    callbacks: Sequence[Callback] = (),
    metrics: Sequence[Callable[..., Mapping[str, float]]] = (),
    imports: Sequence[str] = (),
) -> TrainedRun:
    """Train, or return the finished run of the same arguments: `train("dataset=csv", "dataset.file=my.csv")`.

    Args:
        overrides: what `mltrain train` takes, KEY=VALUE.
        data: (train, val) or (train, val, test), instead of `dataset=`.
        model: backbone, instead of `model=`; see docs/own_parts/backbone.md. A copy is trained.
        loss: instead of `loss=`.
        augment: transform of a training image, instead of `augment=`.
        callbacks: instead of `callbacks=`.
        metrics: instead of `metrics.own=`.
        imports: packages of yours that the config may name, as `paths.imports`.

    Returns:
        Its folder, figures and predictor.

    Raises:
        MltrainError: config, data, numerics or a signal stopped it; repeat the call to resume.
    """
    words = list(overrides)
    if data is not None:
        splits = data if isinstance(data, Splits) else Splits(*data, *([None] if len(data) == 2 else []))
        words += _chosen("dataset", give(splits, "data") | {"name": splits.train.name.partition("/")[0]})
    for section, made in (("model", model), ("loss", loss), ("augment", augment)):
        if made is not None:
            words += _chosen(section, give(made))
    for key, items in (("callbacks", callbacks), ("metrics.own", metrics)):
        if items:
            words.append(f"{key}={spell([give(item, f'{_name(item)}_{k}') for k, item in enumerate(items)])}")
    granted = (*imports, *([GIVEN] if len(words) > len(overrides) else []))
    if not logging.getLogger("mltrain").handlers:
        console.log_to_stderr()
    cfg = load(words, allow_targets=granted)
    result = train_config(cfg)
    return TrainedRun(run_folder(cfg), result or {}, (*granted, *(p for p in cfg.paths.imports if p not in granted)))


def _chosen(section: str, node: Mapping[str, Any]) -> list[str]:
    """Return the overrides that choose a part and set its options."""
    options = [f"{section}.{key}='{value}'" for key, value in node.items() if key != "_target_"]
    return [f"{section}={node['_target_']}", *options]


def _name(made: Any) -> str:
    return str(getattr(made, "__name__", type(made).__name__)).strip("<>")
