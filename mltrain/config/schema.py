"""What a config holds: the frame's sections with their defaults, and the components with what the program injects.

The dataclasses below are the one place of the frame's options: name, type, default, range and meaning. Hydra gets them
as `<section>: default`, so no YAML file repeats them. A component (a loss, a dataset ...) has no class here: it is a
`_target_` with keyword arguments, and the target's own signature says which options there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from hydra.core.config_store import ConfigStore

from mltrain.config.types import Kind, parse_annotation


def _number(default: Any, *, least: float, most: float | None = None) -> Any:
    """A numeric option and its closed range."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True)
class Base:
    """Scalars at the root of the config."""

    task: Literal["multi_label", "single_label"] = "multi_label"  # single_label: one label an image, softmax losses
    seed: int = _number(
        0, least=0, most=2**31 - 1
    )  # of initialisation, order, augmentation; part of the run's identity
    name: str | None = None  # second level of the run folder; null: <model>-<head>-<loss>
    rerun: bool = False  # train again where a finished run of the same config exists


@dataclass(frozen=True)
class Runner:
    """The training loop."""

    epochs: int = _number(40, least=1)
    batch_size: int = _number(64, least=1)  # global: over all ranks, per micro-batch
    eval_batch_size: int | None = _number(None, least=1)  # global; null: batch_size
    accumulate: int = _number(1, least=1)  # micro-batches per optimizer step
    max_steps: int | None = _number(None, least=1)  # stop after this many optimizer steps
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"  # auto: the fastest safe type of the device
    clip_grad_norm: float | None = _number(None, least=0)  # null: no clipping
    device: str = "auto"  # auto | cpu | cuda | cuda:1 | mps ...
    channels_last: bool = True
    compile: Literal["auto"] | bool = "auto"  # auto: torch.compile the loss where that pays; true: the model too
    sync_bn: bool = False  # batch-norm statistics over all ranks
    evaluate_every: int = _number(1, least=1)  # epochs; the last epoch is always evaluated
    checkpoint_every_minutes: float = _number(10.0, least=0)  # besides the one at each epoch's end; 0: only that
    deterministic: bool = False  # torch.use_deterministic_algorithms: slower, the same bits on the same GPU


@dataclass(frozen=True)
class Data:
    """Reading images."""

    num_workers: int | None = _number(None, least=0)  # per rank; null: from the number of cores
    on_corrupt: Literal["stop", "skip"] = "stop"  # a training image that cannot be decoded; evaluation always stops
    corrupt_budget: int = _number(100, least=0)  # skipped images that end the run
    cache: bool = False  # keep resized images on disk
    cache_dir: str | None = None  # null: <paths.data>/cache
    cache_size: int | None = _number(None, least=1)  # shorter side kept for random crops; null: 8/7 of the input size
    check_files: bool = True  # look for every image file before training


@dataclass(frozen=True)
class Metrics:
    """Evaluation."""

    head_min: int = _number(100, least=1)  # head: at least this many training positives
    medium_min: int = _number(20, least=1)  # medium: at least this many; tail: fewer
    threshold: float = _number(0.5, least=0, most=1)  # of the sigmoid, for OP OR OF1 CP CR CF1; not 0 or 1 itself
    topk: int | tuple[int, ...] | None = _number(3, least=1)  # the same at the k best classes of an image, [3,5]: both
    words_k: int | None = _number(5, least=1)  # null: none; annotation length of the per-word protocol
    absent: Literal["exclude", "zero", "error"] = "exclude"  # a class without positives in the evaluated split
    best: (
        Literal["map", "micro_ap", "OF1", "CF1", "macro_F1", "map_unseen"]
        | Literal["accuracy", "balanced_accuracy", "weighted_F1", "g_mean"]
        | None
    ) = None  # figure of the validation split that chooses the epoch; null: map, or accuracy of single labels
    min_positives: int = _number(1, least=1)  # a class with fewer known positives is left out of the class means
    min_negatives: int = _number(0, least=0)  # the same of known negatives; 1 for partially labelled splits
    save_predictions: bool | None = None  # logits and targets in the run folder; null: of the best weights, up to:
    predictions_mb: float = _number(100.0, least=0)  # size of a split's logits that save_predictions=null keeps


@dataclass(frozen=True)
class Logger:
    """Where figures go besides metrics.jsonl."""

    tensorboard: bool = True
    tensorboard_curves: bool = True  # PR curves of each evaluation: all classes pooled, and each group
    tensorboard_images: int = _number(8, least=0, most=64)  # validation images shown with predictions; 0: none
    report: bool = True  # report.html in the run folder at the end; tools/report.py writes it at any time
    wandb: bool = False  # needs mltrain[wandb]
    mlflow: bool = False  # needs mltrain[mlflow]
    project: str = "mltrain"  # project (wandb) or experiment (mlflow) name
    every_steps: int = _number(10, least=1)  # optimizer steps between two records of the training loss
    progress: Literal["auto", "bar", "lines", "off"] = "auto"  # auto: a bar on a terminal, lines otherwise


@dataclass(frozen=True)
class Paths:
    """Folders, and whose code a config may name."""

    data: str = "data"  # where dataset configs look for their files
    runs: str = "runs"  # run folders: <runs>/<dataset.name>/<name>/<id>
    allow_targets: list[str] = field(default_factory=list)  # more packages that `_target_` may name


@dataclass(frozen=True)
class Tuning:
    """Options of tools/evaluate.py, beside the run's config."""

    tune: Literal["off", "threshold", "thresholds", "logit_adjustment"] = "off"  # found on val, reported on test
    tune_metric: Literal["macro_F1", "CF1", "OF1", "words_F1"] | None = None  # of logit_adjustment; null: macro_F1
    tune_min_positives: int | None = _number(None, least=1)  # of thresholds: fewer share one threshold; null: 5
    tune_folds: int | None = _number(None, least=2)  # cross-fit on val in place of reporting on test


@dataclass(frozen=True)
class Export:
    """Options of tools/export.py, beside the run's config."""

    out: str | None = None  # FILE.onnx or FILE.pt2; null: <RUN>/model.onnx
    input: Literal["uint8", "float", "normalised"] = "uint8"  # what the file takes; the first two are 0..255
    weights: Literal["best", "val", "ema"] = "best"
    images: str | None = None  # image or folder of images to check with; null: drawn ones


@dataclass(frozen=True)
class Push:
    """Options of tools/push.py, beside the run's config."""

    out: str | None = None  # folder; null: <RUN>/hub
    weights: Literal["best", "val", "ema"] = "best"
    license: str | None = None  # of the weights, an SPDX name
    data_license: str | None = None  # of the training images, in words
    repo: str | None = None  # also upload to owner/name on the Hugging Face hub
    private: bool = False  # a repository that is made for it


@dataclass(frozen=True)
class Convert:
    """Options of tools/convert_checkpoint.py, beside the config's."""

    out: str | None = None  # run folder to write; null: <paths.runs>/converted/<name of the file>
    classes: str | None = None  # class names, one a line, in the order of the logits; or a csv of the file's ids, names
    overwrite: bool = False  # replace what is in the folder


@dataclass(frozen=True)
class TuneThresholds:
    """Options of tools/tune_thresholds.py, beside the run's config."""

    per: Literal["class", "all"] = "class"  # a threshold of each class, or one of all
    recall: float | None = _number(None, least=0, most=1)  # in place of the best F1: the best precision at this recall
    precision: float | None = _number(None, least=0, most=1)  # or the best recall at this precision
    min_positives: int | None = _number(None, least=1)  # classes with fewer share one threshold; null: 5
    folds: int | None = _number(None, least=2)  # figures across folds of val in place of the test split's
    weights: Literal["best", "val", "ema"] = "best"


@dataclass(frozen=True)
class Predict:
    """Options of tools/predict.py, beside the run's config."""

    format: Literal["table", "csv", "jsonl"] = "table"
    out: str | None = None  # file for the labels; null: standard output
    annotated: str | None = None  # folder for copies of the images with their labels drawn in
    threshold: float | None = _number(None, least=0, most=1)  # of all classes; null: the run's thresholds.json, or
    # metrics.threshold where it has none
    thresholds: str | None = None  # file of thresholds in place of the run's
    topk: int | None = _number(None, least=1)  # so many labels at most; without threshold: exactly so many
    weights: Literal["best", "val", "ema"] = "best"


@dataclass(frozen=True)
class Explain:
    """Options of tools/explain.py, beside the run's config."""

    out: str = "explained"  # folder
    classes: list[str] = field(default_factory=list)  # to explain; none: those that are predicted
    threshold: float | None = _number(None, least=0, most=1)  # as in tools/predict.py
    topk: int | None = _number(None, least=1)  # as in tools/predict.py
    weights: Literal["best", "val", "ema"] = "best"


FRAME: dict[str, type] = {"runner": Runner, "data": Data, "metrics": Metrics, "logger": Logger, "paths": Paths}

# Component sections and the arguments the program gives a target that names them: they cannot be set in a config.
INJECTED: dict[str, tuple[str, ...]] = {
    "dataset": ("need_val",),
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
SWITCHABLE = frozenset({"partial", "curriculum", "mix", "ema"})  # may be switched off: `_target_: null`

# What came later, and what a config without it stands for: a run of this value keeps the id it had before.
LATER: dict[str, Any] = {
    "task": "multi_label",
    "metrics.best": None,
    "partial": {"_target_": None},
    "metrics.min_positives": 1,
    "metrics.min_negatives": 0,
    "head.bottleneck": None,
    "dataset.unseen": None,
    "loss.drw_epoch": None,
    "loss.drw_beta": 0.9999,
    "curriculum": {"_target_": None},
}

# Values that came later for what an older config spells otherwise: both have the id of the older one.
RESPELLED: dict[str, dict[Any, Any]] = {"runner.compile": {"auto": False}}

# Whose code a config may call. Narrower than whole packages: torch.load or a download is no loss.
ALLOWED_TARGETS = (
    *(f"mltrain.{part}." for part in ("curriculum", "datasets", "longtail", "losses", "models", "optim", "pipeline")),
    *("torch.nn.", "torch.optim.", "torchvision.ops.", "torchvision.transforms.", "timm."),
)


@dataclass(frozen=True)
class Option:
    """One option of a frame section."""

    kind: Kind
    default: Any
    least: float | None
    most: float | None

    @property
    def range(self) -> str:
        if self.least is None:
            return ""
        return f" of at least {self.least}" if self.most is None else f" from {self.least} to {self.most}"


def frame_options(section: type) -> dict[str, Option]:
    """The options of a frame dataclass."""
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


def register() -> None:
    """Offer the frame's defaults to Hydra, as plain values: it is `check_config` that judges types."""
    store = ConfigStore.instance()
    store.store(name="base", node={name: option.default for name, option in frame_options(Base).items()})
    for name, section in FRAME.items():
        node = {key: option.default for key, option in frame_options(section).items()}
        store.store(group=name, name="default", node=node)


register()
