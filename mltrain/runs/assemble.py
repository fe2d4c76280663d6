"""Build a Runner from a checked config: the one place where the parts are wired together."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from timm.layers import convert_sync_batchnorm
from torch import nn

from mltrain.config.build import instantiate
from mltrain.config.identity import run_folder
from mltrain.config.rules import FEATURES, SINGLE_LABEL, best_figure
from mltrain.datasets.splits import Splits, in_class_order
from mltrain.engine import distributed
from mltrain.engine.curriculum import Curriculum
from mltrain.engine.evaluator import Inference
from mltrain.engine.kept import Patience
from mltrain.engine.logging import make_sinks, save_environment
from mltrain.engine.precision import resolve_amp
from mltrain.engine.progress import Progress
from mltrain.engine.run_folder import CONFIG, STATS
from mltrain.engine.runner import Runner
from mltrain.engine.shard import check_shardable, shard_model
from mltrain.engine.step import TrainStep
from mltrain.errors import ConfigError, DataError
from mltrain.files import write_json
from mltrain.labels import LabelSet, LabelStats
from mltrain.losses.base import knows_unknown
from mltrain.metrics.single_label import summarize_single_label
from mltrain.metrics.summary import Summary, summarize
from mltrain.models.classifier import Classifier
from mltrain.optim.ema import ModelEma
from mltrain.optim.optimizers import check_usable
from mltrain.pipeline.batch import Transform
from mltrain.pipeline.loader import EvalLoader, TrainLoader
from mltrain.runs.check_data import check_data, check_trainable, check_unseen
from mltrain.runs.debug import limited, with_validation
from mltrain.runs.dry_run import dry_run
from mltrain.runs.eval_size import eval_transform
from mltrain.runs.extend import Extension, begin_extension, build_schedule, find_extension, take_backbone
from mltrain.runs.features import evaluation_cache, training_cache
from mltrain.runs.folder import build_model, on_device
from mltrain.runs.notices import describe_model, earlier_pooling, earlier_runs
from mltrain.runs.offline import offline
from mltrain.runs.own_parts import build_callbacks, check_own_best, with_own_metrics
from mltrain.runs.same_data import remember
from mltrain.runs.teacher import load_teacher
from mltrain.seeding import seed_start
from mltrain.text import counted

logger = logging.getLogger(__name__)

COMPILED_CLASSES = 1000
"""Classes from which ``runner.compile=auto`` compiles the loss on a CPU."""


class Parts(NamedTuple):
    """Data, statistics and model, which evaluation needs as well as training."""

    splits: Splits
    stats: LabelStats
    model: Classifier


def _compiling_pays(device: torch.device, classes: int) -> bool:
    """Return whether a compiled loss saves more than its compilation costs, and can be compiled here at all."""
    pays = classes >= COMPILED_CLASSES if device.type == "cpu" else device.type == "cuda"
    return pays and distributed.has_compiler(device)


def assemble(cfg: DictConfig, dist: distributed.Distributed) -> Runner:
    """Read the data, build every part and wire them; nothing is trained yet."""
    folder = run_folder(cfg)
    extension = find_extension(cfg, folder)
    seed_start(cfg.seed, deterministic=cfg.runner.deterministic)
    parts = build_parts(cfg, dist)
    splits, stats, model = parts
    if extension is not None and cfg.data.cache == FEATURES:
        take_backbone(extension, cfg, folder, model)
    callbacks = build_callbacks(cfg)
    if cfg.metrics.best == "map_unseen":
        check_unseen(splits.val, stats, cfg.metrics.min_positives)
    summarize_all = summarizer(cfg, stats)
    check_own_best(cfg, summarize_all, splits.val)
    step, train_loader = build_training(cfg, dist, parts, extension)
    curriculum = _curriculum(cfg, parts, step, train_loader, folder)
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    config = {str(k): v for k, v in plain.items()}
    with dist.first():  # an error of the main rank ends all
        if dist.is_main:
            try:
                remember(cfg, splits)
            except OSError as error:
                raise ConfigError(f"paths.runs: the run folder {folder} cannot be written: {error}") from error
    if dist.is_main:
        earlier = earlier_runs(cfg, folder) or earlier_pooling(cfg, folder)
        if earlier is not None:
            logger.info("%s", earlier)
        try:
            OmegaConf.save(cfg, folder / CONFIG, resolve=True)
            write_json(folder / STATS, stats.to_json())
            save_environment(folder)
        except OSError as error:
            raise ConfigError(f"paths.runs: the run folder {folder} cannot be written: {error}") from error
        _describe(cfg, folder, step, model, train_loader)
    if extension is not None:
        with dist.first():
            if dist.is_main:
                begin_extension(extension, cfg, folder, step, splits, train_loader.steps_per_epoch)
    return Runner(
        model=model,
        ema=step.ema,
        train_step=step,
        train_loader=train_loader,
        val_loader=eval_loader(cfg, dist, splits.val, model),
        test_loader=None if splits.test is None else eval_loader(cfg, dist, splits.test, model),
        train_labels=splits.train,
        stats=stats,
        summarize=summarize_all,
        dist=dist,
        folder=folder,
        config=config,
        sinks=make_sinks(folder, config, dist),
        progress=Progress(mode=cfg.logger.progress, enabled=dist.is_main),
        epochs=cfg.runner.epochs,
        best_by=best_figure(cfg.task, cfg.metrics.best),
        accumulate=cfg.runner.accumulate,
        max_steps=cfg.runner.max_steps,
        evaluate_every=cfg.runner.evaluate_every,
        checkpoint_every_minutes=cfg.runner.checkpoint_every_minutes,
        keep_best=cfg.runner.keep_best,
        keep_last=cfg.runner.keep_last,
        patience=Patience(cfg.runner.patience, cfg.runner.min_delta, start=extension.epochs if extension else 0),
        log_every_steps=cfg.logger.every_steps,
        keep_predictions=keeps_predictions(cfg, stats),
        curriculum=curriculum,
        callbacks=callbacks,
    )


def build_training(
    cfg: DictConfig, dist: distributed.Distributed, parts: Parts, extension: Extension | None = None
) -> tuple[TrainStep, TrainLoader]:
    """Build the optimizer step and the loader of its batches."""
    _, stats, model = parts
    loss: nn.Module = instantiate(cfg.loss, "loss", stats=stats, num_classes=len(stats.class_names))
    if getattr(loss, "reduction", None) == "none":
        raise ConfigError("loss.reduction=none: training needs one number; allowed: sum, mean, batchmean")
    if not knows_unknown(loss) and stats.unknowns.any():
        raise ConfigError(
            f"loss._target_={cfg.loss._target_}: {int(stats.unknowns.sum())} training targets are unknown (-1), which "
            "only the losses of mltrain and those derived from them leave out; use one, such as loss=bce or loss=asl"
        )
    ema: ModelEma | None = instantiate(cfg.ema, "ema", model=model)
    if cfg.runner.shard:
        for part in (model,) if ema is None else (model, cast("Classifier", ema.module)):
            shard_model(part, dist)
        if ema is not None:
            ema.follow(model)
    optimizer = instantiate(cfg.optimizer, "optimizer", model=model)  # of the parts, where the model is sharded
    try:
        check_usable(optimizer)
    except ValueError as error:
        raise ConfigError(f"optimizer._target_={cfg.optimizer._target_}: {error}") from error
    train_loader = build_train_loader(cfg, dist, parts)
    step = TrainStep(
        model=model,
        loss=loss.to(dist.device),
        optimizer=optimizer,
        schedule=build_schedule(cfg, train_loader.steps_per_epoch, extension),
        ema=ema,
        mix=instantiate(cfg.mix, "mix"),
        dist=dist,
        seed=cfg.seed,
        amp_dtype=resolve_amp(cfg.runner.amp, dist.device),
        clip_grad_norm=cfg.runner.clip_grad_norm,
        channels_last=cfg.runner.channels_last,
        compile_model=cfg.runner.compile is True,
        compile_loss=cfg.runner.compile is True
        or (cfg.runner.compile == "auto" and _compiling_pays(dist.device, len(stats.class_names))),
        teacher=load_teacher(cfg, stats.class_names, dist.device),
    )
    return step, train_loader


def build_data(
    cfg: DictConfig,
    dist: distributed.Distributed,
    stats: LabelStats | None = None,
    class_names: Sequence[str] = (),
    *,
    training: bool = True,
) -> tuple[Splits, LabelStats]:
    """Read and check the splits, order their classes as `class_names`, and compute the training statistics.

    Without `training` the training images need not be there.
    """
    with dist.first():  # one process generates what a dataset keeps on disk
        try:
            splits: Splits = instantiate(cfg.dataset, "dataset", **({} if training else {"need_train": False}))
        except DataError:
            dry_run(cfg)  # the config's own mistakes come first: data can take a day to fetch
            raise
    splits = limited(cfg, splits)
    if training:
        check_trainable(splits.train)
    fewer: LabelSet | None = instantiate(cfg.partial, "partial", labels=splits.train)
    if fewer is not None:
        splits = splits._replace(train=fewer)
    splits = in_class_order(splits, class_names or splits.train.class_names)
    check_data(cfg, splits, training=training)
    splits = with_validation(cfg, splits)
    return splits, stats or LabelStats.from_labels(splits.train, cfg.metrics.head_min, cfg.metrics.medium_min)


def build_parts(cfg: DictConfig, dist: distributed.Distributed, stats: LabelStats | None = None) -> Parts:
    """Build data (see `build_data`) and the model on its device."""
    if cfg.runner.shard:
        check_shardable(dist, resolve_amp(cfg.runner.amp, dist.device))
    splits, stats = build_data(cfg, dist, stats)
    with dist.first():  # one process downloads pretrained weights
        begins = cfg if cfg.runner.extend is None else offline(cfg)  # the run that is extended gives its weights
        model: nn.Module = build_model(begins, stats.class_names, stats)
    if cfg.runner.sync_bn and dist.world_size > 1:
        model = sync_batch_norm(model, dist)
    assert isinstance(model, Classifier)
    return Parts(splits, stats, on_device(model, cfg, dist.device))


def sync_batch_norm(model: nn.Module, dist: distributed.Distributed) -> nn.Module:
    """Return the model with batch-norm statistics over all ranks."""
    if dist.device.type != "cuda":
        raise ConfigError("runner.sync_bn=true needs CUDA devices; set runner.sync_bn=false on a CPU")
    # timm's: torch's own conversion loses the activation that many of timm's batch-norms hold.
    return convert_sync_batchnorm(model)


def eval_loader(
    cfg: DictConfig,
    dist: distributed.Distributed,
    labels: LabelSet,
    model: Classifier,
    *,
    batch_size: int | None = None,
    views: Transform | None = None,
) -> EvalLoader:
    """Build the loader of an evaluation split, at `eval_size`; by default in batches of the config.

    With `views` images are resized by that instead, and no cache is used.
    """
    resize = views or eval_transform(cfg, model.backbone)
    return EvalLoader(
        labels,
        resize,
        batch_size=batch_size or cfg.runner.eval_batch_size or cfg.runner.batch_size,
        rank=dist.rank,
        world_size=dist.world_size,
        num_workers=cfg.data.num_workers,
        pin_memory=dist.device.type == "cuda",
        cache=evaluation_cache(cfg, labels, resize, model) if views is None else None,
    )


def summarizer(cfg: DictConfig, stats: LabelStats) -> Callable[..., Summary]:
    """Return the task's `summarize`, bound to the config's settings and the groups of the training set.

    It includes the user's own figures.
    """
    return with_own_metrics(cfg, _summarizer_of_task(cfg, stats))


def _summarizer_of_task(cfg: DictConfig, stats: LabelStats) -> functools.partial[Summary]:
    if cfg.task == SINGLE_LABEL:
        groups = stats.group_indices()
        return functools.partial(summarize_single_label, group_indices=groups, absent=cfg.metrics.absent)
    keys = ("threshold", "topk", "topk_threshold", "words_k", "absent", "min_positives", "min_negatives", "ranking")
    settings = {key: cfg.metrics[key] for key in keys}
    groups = stats.group_indices()
    if "unseen" in groups:
        groups["seen"] = np.setdiff1d(np.arange(len(stats.class_names)), groups["unseen"])
    return functools.partial(summarize, group_indices=groups, **settings)


def keeps_predictions(cfg: DictConfig, stats: LabelStats) -> bool:
    """Return whether evaluation keeps predictions for unknown targets too: to write them, or for figures of images."""
    asked = cfg.metrics.save_predictions or cfg.metrics.ranking or cfg.metrics.own
    return bool(asked or cfg.task == SINGLE_LABEL or "unseen" in stats.group_indices())


def build_train_loader(cfg: DictConfig, dist: distributed.Distributed, parts: Parts) -> TrainLoader:
    """Build the loader of the training split, at the model's input size."""
    splits, stats, model = parts
    if cfg.runner.batch_size % dist.world_size:
        raise ConfigError(
            f"runner.batch_size={cfg.runner.batch_size} is the batch over all processes; "
            f"it must be a multiple of their number, {dist.world_size}"
        )
    parts_of_step = cfg.runner.accumulate * dist.world_size
    sampler = instantiate(cfg.sampler, "sampler", labels=splits.train, stats=stats, seed=cfg.seed)
    if len(sampler) < parts_of_step:
        raise ConfigError(
            f"{splits.train.name}: {counted(len(sampler), 'image', 'are')} too few in an epoch for runner.accumulate="
            f"{cfg.runner.accumulate} over {counted(dist.world_size, 'process')}, which cut a step into "
            f"{counted(parts_of_step, 'part')}"
        )
    augment = instantiate(cfg.augment, "augment", image_size=model.backbone.image_size)
    return TrainLoader(
        splits.train,
        augment,
        sampler,
        batch_size=cfg.runner.batch_size,
        accumulate=cfg.runner.accumulate,
        rank=dist.rank,
        world_size=dist.world_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        on_corrupt=cfg.data.on_corrupt,
        corrupt_budget=cfg.data.corrupt_budget,
        pin_memory=dist.device.type == "cuda",
        cache=training_cache(cfg, splits.train, augment, model),
    )


def _curriculum(
    cfg: DictConfig, parts: Parts, step: TrainStep, train_loader: TrainLoader, folder: Path
) -> Curriculum | None:
    splits, stats, model = parts
    pace = instantiate(cfg.curriculum, "curriculum", labels=splits.train, seed=cfg.seed)
    if pace is None:
        return None
    whole = cfg.copy()
    whole.sampler.epoch_size = train_loader.epoch_size

    def score_loader() -> EvalLoader:
        # Not in batches of runner.eval_batch_size, which does not count for the run's id: sums of another batch size
        # may differ in the last bit, and the scores decide what is trained on.
        return eval_loader(cfg, step.dist, splits.train, model, batch_size=cfg.runner.batch_size)

    def make_sampler(labels: LabelSet, class_costs: np.ndarray) -> Any:
        given = {"labels": labels, "stats": stats, "seed": cfg.seed, "class_costs": class_costs}
        return instantiate(whole.sampler, "sampler", **given)

    return Curriculum(
        pace=pace,
        model=model,
        loss=step.loss,
        train_loader=train_loader,
        score_loader=score_loader,
        make_sampler=make_sampler,
        inference=Inference(step.dist, step.amp_dtype, cfg.runner.channels_last),
        single_label=cfg.task == SINGLE_LABEL,
        folder=folder,
    )


def _describe(cfg: DictConfig, folder: Path, step: TrainStep, model: Classifier, loader: TrainLoader) -> None:
    precision = "full precision" if step.amp_dtype is None else f"autocast {str(step.amp_dtype).removeprefix('torch.')}"
    by_group = {g["name"]: f"{g['initial_lr']:.3g}" for g in step.optimizer.param_groups}
    layers = [lr for name, lr in by_group.items() if name.startswith("backbone_") and name.count("_") > 1]
    if len(set(by_group.values())) == 1:
        lrs = next(iter(by_group.values()))
    elif len(set(layers)) > 1 and (of_head := [lr for name, lr in by_group.items() if name.startswith("head_")]):
        lrs = f"backbone {layers[-1]} (lowest layer) to {layers[0]} (highest), head {of_head[0]}"
    else:
        lrs = ", ".join(f"{name} {lr}" for name, lr in by_group.items())
    logger.info("run folder %s", folder)
    logger.info("%s", describe_model(cfg, model))
    logger.info(
        "%s x %d%s, %s; %s an epoch",
        step.dist.device,
        step.dist.world_size,
        ", sharded" if step.sharded else "",
        precision,
        counted(loader.steps_per_epoch, "step"),
    )
    logger.info("peak LR: %s", lrs)
