"""Average weights: of the best or the last kept epochs of a run, or of several runs.

Uniform averages of epochs are stochastic weight averaging (SWA, Izmailov et al., arXiv 1803.05407), those of runs that
start from the same weights model soups (Wortsman et al., arXiv 2203.05482); `greedy` is the greedy soup of the latter.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from mltrain.config.compose import load_run
from mltrain.config.rules import best_figure
from mltrain.datasets.splits import Splits
from mltrain.engine import distributed
from mltrain.engine.batch_norm import estimate_batch_norm, trained_batch_norms
from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.evaluator import Inference, evaluate
from mltrain.engine.kept import KeptEpochs, figures
from mltrain.engine.precision import resolve_amp
from mltrain.engine.run_folder import EPOCH, EVALUATION, RAW, WEIGHTS, RunFolder, read_json
from mltrain.engine.state import TrainState, load_fitting
from mltrain.errors import CheckpointError, ConfigError
from mltrain.files import sha256_of
from mltrain.labels import LabelStats
from mltrain.models.classifier import Classifier
from mltrain.models.weights import StateDict
from mltrain.report.tables import HEADLINES, percent, short_title, text_table
from mltrain.report.tables import title as title_of
from mltrain.runs.assemble import Parts, build_data, build_train_loader, eval_loader, summarizer
from mltrain.runs.folder import Weights, build_model, choose_weights, on_device, read_weights
from mltrain.runs.model_folder import write_model_folder
from mltrain.runs.offline import forget_start
from mltrain.runs.settings import WEIGHTS_FILE
from mltrain.runs.zoo import read_source

logger = logging.getLogger(__name__)

LEAST_BATCHES = 20
"""Batches that batch-norm statistics are a mean of, at least; more epochs of a small training set are read for them."""
Figures = dict[str, dict[str, float]]
"""figures by split, "val" and "test" """


@dataclass(frozen=True)
class Member:
    """One set of weights that goes into an average; it is read when it is needed."""

    folder: Path
    epoch: int | None
    """of a kept checkpoint; None: the weights that a run folder stands for"""

    @property
    def name(self) -> str:
        """Short name for a table and for source.json."""
        return str(self.folder) if self.epoch is None else f"epoch {self.epoch}"

    @property
    def file(self) -> Path:
        """The file with the weights."""
        if self.epoch is not None:
            return self.folder / f"{EPOCH.format(self.epoch)}.pt"
        best = self.folder / "best.pt"
        return best if best.exists() else self.folder / WEIGHTS_FILE

    def read(self, cfg: DictConfig, weights: Weights) -> Ingredient:
        """Read the weights; remove from `cfg`, the config of their run, those that its model started from.

        Raises:
            CheckpointError: they cannot be read.
            ConfigError: there are no EMA weights.
        """
        if self.epoch is None:
            state = read_weights(cfg, self.folder)
        else:
            forget_start(cfg)
            content = CheckpointFolder(self.folder).load(EPOCH.format(self.epoch))
            if content is None:
                raise CheckpointError(f"{self.file}: no such file")
            state = TrainState.from_dict(content, self.file)
        chosen = choose_weights(state, weights, self.folder)
        named = f"{self.name} ({WEIGHTS[chosen]})"
        return Ingredient(named, self.file, state.weights(chosen), replace(state, model={}, ema=None))


@dataclass(frozen=True)
class Ingredient:
    """Weights that were read, with the rest of their checkpoint."""

    name: str
    file: Path
    tensors: StateDict
    state: TrainState
    """without tensors"""


def choose_members(cfg: DictConfig, folders: Sequence[Path], *, best: int | None, last: int | None) -> list[Member]:
    """Return the weights to average: kept epochs of one run, or the best weights of several runs.

    Raises:
        ConfigError: there are fewer than two, or `best` or `last` is given for several runs.
    """
    if len(folders) > 1:
        if best or last:
            raise ConfigError(
                "best= and last= choose among the epochs of one run; several runs give their best weights"
            )
        if len({folder.resolve() for folder in folders}) < len(folders):
            raise ConfigError("a run is named twice; name each once")
        return [Member(folder, None) for folder in folders]
    folder, by = folders[0], best_figure(cfg.task, cfg.metrics.best)
    scores = figures(RunFolder(folder).epochs, by)
    kept = [epoch for epoch in KeptEpochs(CheckpointFolder(folder), by).epochs() if epoch in scores]
    chosen = kept
    if best or last:
        chosen = sorted(scores)[-last:] if last else sorted(scores, key=lambda epoch: (-scores[epoch], epoch))[:best]
    if len(chosen) < max(best or last or 0, 2) or not set(chosen) <= set(kept):
        found = f"the checkpoints of epochs {', '.join(map(str, kept))}" if kept else "no checkpoints of epochs"
        wanted = f"; the {last or best} {'last' if last else 'best'} are {', '.join(map(str, sorted(chosen)))}"
        raise ConfigError(
            f"{folder}: it has kept {found}{wanted if best or last else ''}. A training keeps more of them with "
            f"runner.keep_{'last' if last else 'best'}={best or last or 3} (rerun=true where it is finished)"
        )
    return [Member(folder, epoch) for epoch in sorted(chosen)]


@dataclass(frozen=True)
class Bench:
    """The model, the data and the settings that averages are made and evaluated with."""

    config: DictConfig
    dist: distributed.Distributed
    model: Classifier
    splits: Splits
    stats: LabelStats
    batch_norm: bool
    """estimate statistics anew for averages"""

    def evaluate(self, state: StateDict) -> Figures:
        """Load weights and return their figures, by split."""
        load_fitting(self.model, state)
        return self.figures()

    def figures(self) -> Figures:
        """Return the figures of the weights that are loaded, by split."""
        cfg, found = self.config, {}
        amp = resolve_amp(cfg.runner.amp, self.dist.device)
        inference = Inference(self.dist, amp, cfg.runner.channels_last, progress=cfg.logger.progress)
        for split, labels in (("val", self.splits.val), ("test", self.splits.test)):
            if labels is not None:
                with closing(eval_loader(cfg, self.dist, labels, self.model)) as loader:
                    evaluation = evaluate({RAW: self.model}, loader, summarizer(cfg, self.stats), inference)
                assert evaluation is not None
                found[split] = evaluation.summaries[RAW].scalars
        return found

    def average(self, states: Sequence[StateDict]) -> Figures:
        """Load the average of weights, estimate its batch-norm statistics, and return its figures.

        A single set of weights stays as it is.
        """
        load_fitting(self.model, mean_weights(states))
        if self.batch_norm and len(states) > 1:
            cfg = self.config
            with closing(build_train_loader(cfg, self.dist, Parts(self.splits, self.stats, self.model))) as loader:
                epochs = -(-LEAST_BATCHES // (loader.steps_per_epoch * cfg.runner.accumulate))
                estimate_batch_norm(
                    self.model,
                    itertools.chain.from_iterable(loader.epoch(epoch) for epoch in range(epochs)),
                    device=self.dist.device,
                    amp_dtype=resolve_amp(cfg.runner.amp, self.dist.device),
                    channels_last=cfg.runner.channels_last,
                    images=epochs * loader.steps_per_epoch * cfg.runner.accumulate * cfg.runner.batch_size,
                    progress=cfg.logger.progress,
                )
        return self.figures()


def mean_weights(states: Sequence[StateDict]) -> StateDict:
    """Return the mean of each tensor, computed in fp64; tensors of whole numbers are those of the first."""
    first = states[0]
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in first.items()
    }


def average(
    cfg: DictConfig,
    members: Sequence[Member],
    out: Path,
    *,
    weights: Weights = "best",
    batch_norm: bool = True,
    greedy: bool = False,
    overwrite: bool = False,
) -> Path:
    """Average weights, write them as a folder that every command takes like a run, and log the figures of all.

    Args:
        cfg: config of the first run.
        members: weights to average; of the same model, head and classes.
        out: the folder to write. One that an equal call has written is kept.
        weights: of each member: "best" takes the raw or the EMA weights, as validation chose; "val" the raw; "ema".
        batch_norm: estimate the statistics of batch-norm layers anew, over one epoch of training images.
        greedy: take a member only if the figure of the validation split does not fall, the best members first.
        overwrite: replace what an earlier call left in the folder.

    Raises:
        ConfigError: `out` has other content, or an option does not fit.
        CheckpointError: the members are not of one architecture.
    """
    made_of = {
        "file": out.name,
        "averaged": [{"weights": member.name, "sha256": sha256_of(member.file)} for member in members],
        "options": {"weights": weights, "batch_norm": batch_norm, "greedy": greedy},
    }
    if _is_made(out, made_of, overwrite):
        return out
    with distributed.start(cfg.runner.device) as dist:
        if dist.world_size > 1:
            raise ConfigError("mltrain average runs in one process; start it without torchrun")
        allowed = list(cfg.paths.allow_targets)
        configs = [cfg, *(load_run(member.folder, allow_targets=allowed) for member in members[1:])]
        read = [member.read(config, weights) for member, config in zip(members, configs, strict=True)]
        _check_alike(read)
        bench = _bench(cfg, dist, read[0].state, batch_norm)
        names, states = [item.name for item in read], [item.tensors for item in read]
        found = [bench.evaluate(state) for state in states]
        by = best_figure(cfg.task, cfg.metrics.best)
        taken = _greedy(bench, read, found, by) if greedy else list(range(len(states)))
        result = bench.average([states[k] for k in taken])
        title = f"average of {len(taken)}"
        logger.info("%s", _table([*names, title], [*found, result]))
        if greedy:
            logger.info("taken: %s", ", ".join(names[k] for k in taken))
        if (best := max(figure["val"][by] for figure in found)) > result["val"][by]:
            logger.info("the best of them is better than the average: validation %s %.2f", title_of(by), best)
        evaluation = {"best": {"weights": RAW}, RAW: result["val"]}
        evaluation |= {"test": {RAW: result["test"]}} if "test" in result else {}
        source = made_of | {"taken": [names[k] for k in taken], "figures": dict(zip(names, found, strict=True))}
        first = read[0].state
        others = {EVALUATION: evaluation}
        write_model_folder(out, cfg, bench.model, first.class_names, source, stats=first.stats, others=others)
    logger.info("%s: evaluate, predict, export, push and model.checkpoint take it like a run", out)
    return out


def _is_made(out: Path, made_of: dict[str, Any], overwrite: bool) -> bool:
    """Return whether `out` is an equal average already; raise ConfigError if it has something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    before = read_source(out) if out.is_dir() else None
    if before is None or "averaged" not in before:
        raise ConfigError(f"out: {out} exists, and is no average; choose another folder with out=DIR")
    if overwrite:
        return False
    if {key: before.get(key) for key in made_of} != made_of:
        raise ConfigError(f"out: {out} is an average of other weights or options; overwrite=true, or out=DIR")
    parts, evaluation = before["figures"], read_json(out / EVALUATION) or {}
    result = {"val": evaluation.get(RAW, {}), "test": evaluation.get("test", {}).get(RAW, {})}
    title = f"average of {len(before['taken'])}"
    logger.info("averaged before: %s\n%s", out, _table([*parts, title], [*parts.values(), result]))
    return True


def _check_alike(read: Sequence[Ingredient]) -> None:
    """Refuse weights of several architectures, classes or normalisations of the images."""
    first = read[0]
    for item in read[1:]:
        item.state.check_classes(first.state.class_names, item.file)
        shapes = [{name: tensor.shape for name, tensor in of.tensors.items()} for of in (first, item)]
        differing = [name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name)]
        if differing:
            raise CheckpointError(
                f"{item.file}: not of the same architecture as {first.file}; they differ in {len(differing)} tensors, "
                f"first in {differing[0]}"
            )
        for name in ("mean", "std"):
            if not torch.equal(first.tensors[name], item.tensors[name]):
                raise CheckpointError(f"{item.file}: trained on images of another {name} than {first.file}")


def _bench(cfg: DictConfig, dist: distributed.Distributed, state: TrainState, batch_norm: bool) -> Bench:
    model = build_model(cfg, state.class_names, state.stats)
    estimated = batch_norm and bool(trained_batch_norms(model))
    trained = state.stats
    if trained is not None:
        trained = replace(trained, head_min=cfg.metrics.head_min, medium_min=cfg.metrics.medium_min)
    splits, stats = build_data(cfg, dist, trained, state.class_names, training=estimated)
    return Bench(cfg, dist, on_device(model, cfg, dist.device), splits, stats, estimated)


def _greedy(bench: Bench, read: Sequence[Ingredient], found: Sequence[Figures], by: str) -> list[int]:
    """Return the numbers of the members that the greedy soup takes."""
    order = sorted(range(len(read)), key=lambda k: -found[k]["val"][by])
    taken, best = order[:1], found[order[0]]["val"][by]
    for k in order[1:]:
        figure = bench.average([read[j].tensors for j in sorted([*taken, k])])["val"][by]
        verdict = "taken" if figure >= best else "left out"
        logger.info("with %s: validation %s %.2f, %s", read[k].name, title_of(by), figure, verdict)
        if figure >= best:
            taken, best = [*taken, k], figure
    return sorted(taken)


def _table(names: Sequence[str], found: Sequence[Figures]) -> str:
    """Lay out the main figures, one row for each set of weights and split."""
    headline = next((keys for keys in HEADLINES if keys[0] in found[0]["val"]), HEADLINES[0])
    rows = [
        [f"{split} {name}", *(percent(figures[split].get(key)) for key in headline)]
        for split in found[0]
        for name, figures in zip(names, found, strict=True)
    ]
    return text_table(["weights", *map(short_title, headline)], rows)
