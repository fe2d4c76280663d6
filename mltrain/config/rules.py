"""Rules between sections of a config: what the task and the curriculum require of the others; torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mltrain.config.schema import SECTIONS, section_options
from mltrain.config.signatures import PACKAGE, TargetError, read_constant, read_module, read_signature
from mltrain.text import did_you_mean

CURRICULUM = "curriculum"
CLASS_COSTS = "class_costs"
"""the argument of a sampler that follows the class costs"""
FEATURES = "features"
"""the value of `data.cache` that stores features instead of resized images"""
MULTI_LABEL, SINGLE_LABEL = "multi_label", "single_label"

# Figures that may choose the best epoch; the first by default. All are defined on every split that can be evaluated,
# but for map_unseen, which needs unseen classes.
BEST = {
    MULTI_LABEL: ("map", "micro_ap", "OF1", "CF1", "macro_F1", "map_unseen"),
    SINGLE_LABEL: ("accuracy", "balanced_accuracy", "macro_F1", "weighted_F1", "g_mean"),
}
# Options that only several labels an image have a use for, and what a single label does without them.
MULTI_LABEL_OPTIONS = {
    **dict.fromkeys(
        ("metrics.threshold", "metrics.topk", "metrics.topk_threshold", "metrics.words_k", "metrics.ranking"),
        "the class with the highest logit is predicted",
    ),
    **dict.fromkeys(
        ("metrics.min_positives", "metrics.min_negatives"), "metrics.absent says what a class without images does"
    ),
}


SHARDED_OPTIMIZERS = tuple(f"{PACKAGE}.optim.optimizers.{name}" for name in ("adam", "adamw", "sgd"))
"""those that change each weight by itself, which a part of a tensor is enough for; SGD last"""


def best_figure(task: str, chosen: str | None) -> str:
    """Return the figure of the validation split that chooses the best epoch."""
    return chosen or BEST[task][0]


def task_of_loss(target: str) -> str | None:
    """Return the task of a loss class: its `task`, or multi_label; None for losses of other packages."""
    if not target.startswith(PACKAGE + "."):
        return None
    try:
        return str(read_constant(target, "task") or MULTI_LABEL)
    except TargetError:
        return None


def task_problems(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for everything in a resolved config that its task rules out."""
    task = tree.get("task")
    if not isinstance(task, str) or task not in BEST:
        return
    sections = {name: node for name, node in tree.items() if isinstance(node, dict)}
    target = sections.get("loss", {}).get("_target_")
    found = task_of_loss(target) if isinstance(target, str) else None
    if found is not None and found != task:
        yield "loss", _wrong_loss(str(target).rsplit(".", 1)[-1], found, task)
    metrics = sections.get("metrics", {})
    best = metrics.get("best")
    if isinstance(best, str) and best not in BEST[task]:
        of_other_task = any(best in figures for figures in BEST.values())
        if of_other_task or not metrics.get("own"):
            hint = "" if of_other_task else did_you_mean(best, BEST[task])
            allowed = f"{', '.join(BEST[task])}, or one that metrics.own gives"
            yield "metrics.best", f"task={task} has no such figure{hint}; choose one of {allowed}"
    if task == MULTI_LABEL:
        return
    for path, instead in MULTI_LABEL_OPTIONS.items():
        section, _, name = path.partition(".")
        node, options = sections.get(section, {}), section_options(SECTIONS[section])
        if name in options and node.get(name, options[name].default) != options[name].default:
            yield path, f"task={task} has no use for it ({instead}); leave it out"
    if sections.get("mix", {}).get("targets") == "union":
        yield "mix.targets", f"union gives images several labels; task={task} needs mix.targets=linear"


def _wrong_loss(name: str, found: str, task: str) -> str:
    if task == SINGLE_LABEL:
        fix = f"choose loss={_listed(single_label_losses())}, or task={MULTI_LABEL} for sigmoids and mAP"
    else:
        fix = f"choose a loss of sigmoids, e.g. loss=asl, or task={SINGLE_LABEL} where every image has one label"
    return f"{name} is for task={found}, and the task is {task}; {fix}"


def single_label_losses() -> list[str]:
    """Return the modules of the losses of single labels; their configs have the same names."""
    losses = read_module(f"{PACKAGE}.losses")
    assert losses is not None
    sources = losses.sources.values()
    found = {dotted for dotted, name in sources if name and task_of_loss(f"{dotted}.{name}") == SINGLE_LABEL}
    return sorted(dotted.rsplit(".", 1)[-1] for dotted in found)


def _listed(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def curriculum_problems(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for everything in a resolved config that does not fit its curriculum or lacks one."""
    sections = {name: node for name, node in tree.items() if isinstance(node, dict)}
    chosen = sections.get(CURRICULUM, {})
    sampler, loss = sections.get("sampler", {}), sections.get("loss", {})
    options = _options(sampler.get("_target_"))
    if chosen.get("_target_") is None:
        if options is not None and CLASS_COSTS in options:
            yield "sampler", "it follows the class costs of a curriculum, and there is none: add curriculum=spbl"
        if loss.get("class_weight") == CURRICULUM:
            yield "loss.class_weight", "there is no curriculum whose class costs these could be: add curriculum=spbl"
        return
    if options is not None and "epoch_size" not in options:
        yield "sampler", "a curriculum needs a sampler with an option epoch_size, e.g. sampler=uniform"
    if chosen.get("scorer") == "svm" and tree.get("task") == "multi_label":
        yield (
            "curriculum.scorer",
            "an SVM tells apart classes that exclude each other; with several labels per image use scorer=model",
        )
    if sections.get("data", {}).get("on_corrupt") == "skip":
        yield (
            "data.on_corrupt",
            "a curriculum scores every training image and can leave none out; use on_corrupt=stop, or curriculum=none",
        )


def logger_problems(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for options of a service that is not switched on."""
    node = tree.get("logger")
    if not isinstance(node, dict):
        return
    for key in ("entity", "group", "tags", "run_name"):
        services = ["wandb"] if key == "entity" else ["wandb", "mlflow"]
        if node.get(key) and not any(node.get(name) for name in services):
            yield f"logger.{key}", f"needs {' or '.join(f'logger.{name}=true' for name in services)}"


def training_problems(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for settings of the training step that do not go together."""
    sections = {name: node for name, node in tree.items() if isinstance(node, dict)}
    compiled = sections.get("runner", {}).get("compile") is True
    if compiled and sections.get("model", {}).get("grad_checkpointing") is True:
        yield (
            "model.grad_checkpointing",
            "a compiled model cannot do it; use runner.compile=auto, which compiles the loss alone",
        )
    distill = sections.get("distill", {})
    if distill.get("teacher") is not None:
        if tree.get("task") == SINGLE_LABEL:
            yield "distill.teacher", f"it compares sigmoids, and task={SINGLE_LABEL} has none; leave it null"
        return
    for key, option in section_options(SECTIONS["distill"]).items():
        if distill.get(key, option.default) != option.default:
            yield f"distill.{key}", "there is no teacher: add distill.teacher=RUN, or leave it out"


def feature_problems(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for what cannot work on cached features."""
    sections = {name: node for name, node in tree.items() if isinstance(node, dict)}
    if sections.get("data", {}).get("cache") != FEATURES:
        return
    if sections.get("model", {}).get("freeze_stages", -1) != -1:
        yield (
            "data.cache",
            f"{FEATURES} are stored once, so the backbone must not change: add model.freeze_stages=-1, or use "
            "data.cache=true, which stores resized images",
        )
    if sections.get("mix", {}).get("_target_") is not None:
        yield "mix", f"it mixes images, and data.cache={FEATURES} has none; use mix=none"
    if sections.get("distill", {}).get("teacher") is not None:
        yield "distill.teacher", f"the teacher looks at images, and data.cache={FEATURES} has none; use data.cache=true"
    if sections.get("eval_resize", {}).get("image_size") is not None:
        yield (
            "eval_resize.image_size",
            f"data.cache={FEATURES} stores features of one size of images; leave it null, or use data.cache=false",
        )


def pooling_problems(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for a head that has no use for the one vector of `model.pool=timm`."""
    model, head = tree.get("model"), tree.get("head")
    if not isinstance(model, dict) or not isinstance(head, dict) or model.get("pool") != "timm":
        return
    tokens, options = head.get("tokens"), _options(head.get("_target_"))
    if tokens in ("cls", "both"):
        yield (
            "head.tokens",
            "model.pool=timm leaves one vector, and no class token beside it; use head.tokens=patches",
        )
    elif options is not None and "tokens" not in options:
        yield "model.pool", "it leaves one vector for an image, and this head weighs places; use head=gap, or pool=head"


def shard_problems(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for settings that a sharded model cannot have."""
    sections = {name: node for name, node in tree.items() if isinstance(node, dict)}
    runner, optimizer = sections.get("runner", {}), sections.get("optimizer", {})
    if runner.get("shard") is not True:
        return
    if runner.get("compile") is True:
        yield "runner.compile", "runner.shard=true cannot do it; use auto, which compiles the loss alone"
    if runner.get("amp") == "fp16":
        yield "runner.amp", "runner.shard=true has no loss scaling; use bf16 or off"
    if runner.get("device") == "mps":
        yield "runner.device", "runner.shard=true needs several processes, and mps has one; use auto, cuda or cpu"
    if runner.get("accumulate", 1) != 1 and sections.get("data", {}).get("on_corrupt") == "skip":
        yield (
            "data.on_corrupt",
            "runner.shard=true with runner.accumulate above 1: a rank without an image in a part of a step would keep "
            "the others waiting; use on_corrupt=stop, or accumulate=1",
        )
    target = optimizer.get("_target_")
    if isinstance(target, str) and target not in SHARDED_OPTIMIZERS:
        yield (
            "optimizer",
            "runner.shard=true gives each process parts of the weights, and other optimizers may need whole ones; use "
            "optimizer=adam, adamw or sgd",
        )
    elif target == SHARDED_OPTIMIZERS[-1] and optimizer.get("fused") is True:
        yield "optimizer.fused", "torch has no fused SGD for runner.shard=true; leave it null"


def runner_problems(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for options of the runner that belong to another one, which is not set."""
    runner = tree.get("runner")
    for key, owner, off in (("min_delta", "patience", 0.0), ("extend_lr", "extend", None)):
        if isinstance(runner, dict) and runner.get(owner) is None and runner.get(key, off) != off:
            yield f"runner.{key}", f"does nothing without runner.{owner}; set that too, or leave this out"


def _options(target: Any) -> set[str] | None:
    """Return the options of one of this package's components; None if they are unknown."""
    if not isinstance(target, str) or not target.startswith(PACKAGE + "."):
        return None
    try:
        return set(read_signature(target).parameters)
    except TargetError:
        return None


RULES = (
    task_problems,
    curriculum_problems,
    logger_problems,
    runner_problems,
    training_problems,
    feature_problems,
    pooling_problems,
    shard_problems,
)
"""each yields (key, problem) for a resolved config"""
