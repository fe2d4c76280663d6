"""The schema of a config: built-in sections with their defaults, and components with what the program injects.

The dataclasses below are the one place of the built-in options: name, type, default, range and meaning. Hydra gets them
as `<section>: default`, so no YAML file repeats them. A component (a loss, a dataset ...) has no class here: it is a
`_target_` with keyword arguments, and the target's own signature says which options it has.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from hydra.core.config_store import ConfigStore

from mltrain.config.types import Kind, parse_annotation


def number(default: Any, *, least: float, most: float | None = None) -> Any:
    """Return the dataclass field of a numeric option with its closed range."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True)
class RootOptions:
    """Scalars at the root of the config."""

    task: Literal["multi_label", "single_label"] = "multi_label"  # single_label: one label per image, softmax losses
    seed: int = number(0, least=0, most=2**31 - 1)  # of initialisation, order, augmentation; part of the run's identity
    name: str | None = None  # second level of the run folder; null: <model>-<head>-<loss>
    rerun: bool = False  # train again where a finished run of the same config exists
    debug: Literal["fast_dev", "overfit", "profile"] | None = None  # set by debug=NAME, which sets other keys too
    callbacks: list[dict[str, Any]] = field(default_factory=list)  # your code at points of the training, docs/own_parts


@dataclass(frozen=True)
class RunnerOptions:
    """The training loop."""

    epochs: int = number(40, least=1)
    batch_size: int = number(64, least=1)  # global: over all ranks, per micro-batch
    eval_batch_size: int | None = number(None, least=1)  # global; null: batch_size
    accumulate: int = number(1, least=1)  # micro-batches per optimizer step
    max_steps: int | None = number(None, least=1)  # stop after this many optimizer steps
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"  # auto: the fastest safe type of the device
    clip_grad_norm: float | None = number(None, least=0)  # null: no clipping
    device: str = "auto"  # auto | cpu | cuda | cuda:1 | mps ...
    channels_last: bool = True
    compile: Literal["auto"] | bool = "auto"  # auto: torch.compile the loss where that pays; true: the model too
    sync_bn: bool = False  # batch-norm statistics over all ranks
    shard: bool = False  # spread weights, gradients, optimizer and average over the ranks: FSDP2, under torchrun
    evaluate_every: int = number(1, least=1)  # epochs; the last epoch is always evaluated
    patience: int | None = number(None, least=1)  # end after so many evaluations without a better figure; null: never
    min_delta: float = number(0.0, least=0)  # percent points that count as better for patience
    keep_best: int = number(1, least=1)  # checkpoints of the best epochs; 1: best.pt, more: epoch-0007.pt ... too
    keep_last: int = number(0, least=0)  # checkpoints of the last evaluated epochs, as epoch-0007.pt
    extend: str | None = None  # finished run whose training goes on here, up to runner.epochs in all
    extend_lr: Literal["restart", "continue"] | None = None  # of the schedule; null: continue if it has epochs left
    checkpoint_every_minutes: float = number(10.0, least=0)  # besides the one at each epoch's end; 0: only that
    deterministic: bool = False  # torch.use_deterministic_algorithms: slower, the same bits on the same GPU


@dataclass(frozen=True)
class DataOptions:
    """Reading images."""

    num_workers: int | None = number(None, least=0)  # per rank; null: from the number of cores
    on_corrupt: Literal["stop", "skip"] = "stop"  # a training image that cannot be decoded; evaluation always stops
    corrupt_budget: int = number(100, least=0)  # skipped images that end the run
    cache: Literal["features"] | bool = False  # keep resized images, or features of a frozen backbone, on disk
    cache_dir: str | None = None  # null: <paths.data>/cache
    cache_size: int | None = number(None, least=1)  # shorter side kept for random crops; null: 8/7 of the input size
    feature_dtype: Literal["fp16", "bf16"] = "fp16"  # of cached features: fp16 is more exact, bf16 has a larger range
    feature_views: int = number(0, least=0)  # augmented views of an image whose features are cached; 0: not augmented
    check_files: bool = True  # look for every image file before training
    limit: int | None = number(None, least=1)  # images of each split, to try things out; null: all
    validate_on: Literal["val", "train"] = "val"  # train: evaluate the training images, to see what was learnt by heart


@dataclass(frozen=True)
class MetricsOptions:
    """Evaluation."""

    head_min: int = number(100, least=1)  # head: at least this many training positives
    medium_min: int = number(20, least=1)  # medium: at least this many; tail: fewer
    threshold: float = number(0.5, least=0, most=1)  # of the sigmoid, for OP OR OF1 CP CR CF1; not 0 or 1 itself
    topk: int | tuple[int, ...] | None = number(3, least=1)  # the same at the k best classes of an image, [3,5]: both
    topk_threshold: float | None = number(None, least=0, most=1)  # least sigmoid of a label at k; ML-GCN, CSRA: 0.5
    words_k: int | None = number(5, least=1)  # null: none; annotation length of the per-word protocol
    absent: Literal["exclude", "zero", "error"] = "exclude"  # a class without positives in the evaluated split
    best: (
        Literal["map", "micro_ap", "OF1", "CF1", "macro_F1", "map_unseen"]
        | Literal["accuracy", "balanced_accuracy", "weighted_F1", "g_mean"]
        | str
        | None
    ) = None  # figure that chooses the epoch, one of metrics.own too; null: map, or accuracy of single labels
    min_positives: int = number(1, least=1)  # classes with fewer known positives are left out of class means
    min_negatives: int = number(0, least=0)  # the same of known negatives; at least 1 where entries are unknown
    ranking: bool = False  # the label-ranking metrics too: LRAP, ranking loss, coverage error
    save_predictions: bool | None = None  # logits and targets in the run folder; null: of the best weights, up to:
    own: list[dict[str, Any]] = field(default_factory=list)  # your figures, beside the others: docs/own_parts/metric.md
    predictions_mb: float = number(100.0, least=0)  # size of a split's logits that save_predictions=null keeps


@dataclass(frozen=True)
class DistillOptions:
    """Knowledge distillation."""

    teacher: str | None = None  # run folder whose model the training follows, besides the labels; null: none
    weight: float = number(1.0, least=0)  # of the divergence from the teacher; the loss of the labels has 1
    temperature: float = number(1.0, least=0.1)  # of both sigmoids; 2 to 4 soften the teacher


@dataclass(frozen=True)
class LoggerOptions:
    """Records besides metrics.jsonl."""

    tensorboard: bool = True
    tensorboard_curves: bool = True  # PR curves of each evaluation: all classes pooled, and each group
    tensorboard_images: int = number(8, least=0, most=64)  # validation images shown with predictions; 0: none
    report: bool = True  # report.html in the run folder at the end; mltrain report writes it at any time
    wandb: bool = False  # needs mltrain-vision[wandb]
    mlflow: bool = False  # needs mltrain-vision[mlflow]
    project: str = "mltrain"  # project (wandb) or experiment (mlflow) name
    entity: str | None = None  # team or user of wandb; null: your default
    group: str | None = None  # of runs that belong together (wandb: group, mlflow: tag group)
    tags: list[str] = field(default_factory=list)  # to find runs by in wandb or mlflow
    run_name: str | None = None  # shown in wandb or mlflow; null: <dataset>-<name>-<id>
    every_steps: int = number(10, least=1)  # optimizer steps between two records of the training loss
    callbacks: list[dict[str, Any]] = field(default_factory=list)  # as callbacks, but they cannot end the training
    progress: Literal["auto", "bar", "lines", "off"] = "auto"  # auto: a bar on a terminal, lines otherwise


@dataclass(frozen=True)
class PathsOptions:
    """Folders, and packages whose code a config may name."""

    data: str = "data"  # where dataset configs look for their files
    runs: str = "runs"  # run folders: <runs>/<dataset.name>/<name>/<id>
    imports: list[str] = field(default_factory=list)  # your packages that `_target_` may name; not from a file


SECTIONS: dict[str, type] = {
    "runner": RunnerOptions,
    "data": DataOptions,
    "metrics": MetricsOptions,
    "distill": DistillOptions,
    "logger": LoggerOptions,
    "paths": PathsOptions,
}

# Component sections and the arguments the program gives a target that names them: they cannot be set in a config.
INJECTED: dict[str, tuple[str, ...]] = {
    "dataset": ("need_val", "need_train", "drawn"),
    "partial": ("labels",),
    "model": (),
    "head": ("in_features", "num_classes", "class_names", "stats"),
    "loss": ("num_classes", "stats"),
    "sampler": ("labels", "stats", "seed", "class_costs"),
    "curriculum": ("labels", "seed"),
    "augment": ("image_size",),
    "eval_resize": ("image_size",),
    "mix": (),
    "optimizer": ("model",),
    "schedule": ("steps_per_epoch",),
    "ema": ("model",),
}
# Of these, what a config may set too: then the program gives that value.
SETTABLE = frozenset({"eval_resize.image_size"})
LISTS = ("callbacks", "logger.callbacks", "metrics.own")  # options that are lists of components
SWITCHABLE = frozenset({"partial", "curriculum", "mix", "ema"})  # may be switched off: `_target_: null`

# Options that came after the first runs, with the value that a config without them stands for. The run id leaves out an
# option with this value, so that older runs keep their ids.
DEFAULTS_FOR_OLDER_RUNS: dict[str, Any] = {
    "task": "multi_label",
    "metrics.best": None,
    "partial": {"_target_": None},
    "metrics.min_positives": 1,
    "metrics.min_negatives": 0,
    "metrics.topk_threshold": None,
    "metrics.ranking": False,
    "head.bottleneck": None,
    "head.tokens": "patches",
    "dataset.unseen": None,
    "dataset.blank": "negative",
    "dataset.minus_one": None,
    "dataset.no_label": None,
    "dataset.test_fraction": 0.0,
    "dataset.folds": 0,
    "dataset.fold": 0,
    "dataset.stratify": None,
    "dataset.group_column": None,
    "dataset.groups": None,
    "dataset.corrections": None,
    "dataset.degenerate": "keep",
    "dataset.train_difficult": None,
    "augment.asl_policy": False,
    "augment.antialias": True,
    "eval_resize.antialias": True,
    "eval_resize.image_size": None,
    "model.in_chans": 3,
    "model.pool": "head",
    "model.grad_checkpointing": False,
    "optimizer.layer_decay": None,
    "optimizer.model_no_decay": False,
    "loss.drw_epoch": None,
    "loss.drw_beta": 0.9999,
    "curriculum": {"_target_": None},
    "debug": None,
    "data.limit": None,
    "data.validate_on": "val",
    "data.feature_dtype": "fp16",
    "data.feature_views": 0,
    "callbacks": [],
    "metrics.own": [],
    "distill": {"teacher": None, "weight": 1.0, "temperature": 1.0},
    "runner.patience": None,
    "runner.min_delta": 0.0,
    "runner.extend": None,
    "runner.extend_lr": None,
    # Earlier versions read no head. A default that counted would give each finished warm start a new id.
    "model.head_from_checkpoint": True,
}

# Values that came later for what older configs spell otherwise: both have the id of the older spelling.
OLDER_SPELLINGS: dict[str, dict[Any, Any]] = {"runner.compile": {"auto": False}}


@dataclass(frozen=True)
class Option:
    """One option of a built-in section."""

    kind: Kind
    default: Any
    least: float | None
    most: float | None

    @property
    def range(self) -> str:
        if self.least is None:
            return ""
        return f" of at least {self.least}" if self.most is None else f" from {self.least} to {self.most}"


def section_options(section: type) -> dict[str, Option]:
    """Return the options of a section's dataclass."""
    instance = section()
    return {
        item.name: Option(
            kind=parse_annotation(str(item.type)),
            default=getattr(instance, item.name),
            least=item.metadata.get("least"),
            most=item.metadata.get("most"),
        )
        for item in fields(section)
    }


def owner_of(path: str) -> str:
    """Return the path of the component that the path of a config leads to or into: `callbacks.0` of `callbacks.0.x`."""
    for name in LISTS:
        if path.startswith(f"{name}."):
            return f"{name}.{path.removeprefix(f'{name}.').partition('.')[0]}"
    return path.partition(".")[0]


def section_of(path: str) -> str:
    """Return the name in `KINDS` for the path of a component: `loss`, or `callbacks` of `callbacks.0`."""
    return next((name for name in LISTS if path.startswith(f"{name}.")), path.partition(".")[0])


def register() -> None:
    """Offer the sections' defaults to Hydra as plain values, because `check_config` checks types, not Hydra."""
    store = ConfigStore.instance()
    store.store(name="base", node={name: option.default for name, option in section_options(RootOptions).items()})
    for name, section in SECTIONS.items():
        node = {key: option.default for key, option in section_options(section).items()}
        store.store(group=name, name="default", node=node)


register()
