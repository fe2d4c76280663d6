"""The model card of a run: the model, its use, its results, its training data, its training and its licence.

Markdown with the YAML front matter that the Hugging Face hub reads. All of it comes from the files of the run; missing
facts are left out or called unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import yaml

from mltrain.engine.run_folder import RAW, SPLITS
from mltrain.labels import LabelStats
from mltrain.report.tables import HEADLINES, abridged, markdown_table, percent, title
from mltrain.text import spell

SHOWN_CLASSES = 5
"""number of best, and of worst, classes in the table"""
NAMED_CLASSES = 20
"""most classes that the card names"""
SECTIONS = ("head", "loss", "optimizer", "schedule", "ema", "sampler", "augment", "mix", "partial", "curriculum")


@dataclass(frozen=True)
class CardContent:
    """Content of a card; a mapping is empty if the run has no such file."""

    title: str
    config: Mapping[str, Any]
    """the completed config, as plain values"""
    names: Mapping[str, str]
    """names of the components of the config: {"loss": "asl", ...}"""
    facts: Mapping[str, Any]
    """all that a program needs to use the model: class_names, thresholds, image_size, resize, mean, std, weights"""
    parameters: int
    stats: LabelStats | None
    result: Mapping[str, Any] = field(default_factory=dict)
    """result.json with the figures of the published weights under "val" """
    per_class: Sequence[Mapping[str, str]] = ()
    """rows of per_class.csv"""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """environment.json"""
    source: Mapping[str, Any] = field(default_factory=dict)
    """source.json, if the weights were trained elsewhere"""
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    """thresholds.json: tuned thresholds and the figures with them"""
    license: str | None = None
    data_license: str | None = None
    repo: str | None = None


def model_card(card: CardContent) -> str:
    """Return the card as Markdown."""
    sections = (_head(card), _use(card), _results(card), _data(card), _recipe(card), _limits(card), _licence(card))
    return "\n\n".join(part for part in (_front(card), *sections) if part) + "\n"


def _front(card: CardContent) -> str:
    """Return the YAML front matter."""
    task = f"{card.config['task'].replace('_', '-')}-classification"
    front: dict[str, Any] = {"library_name": "mltrain", "pipeline_tag": "image-classification"}
    front["tags"] = [task, "image-classification", "timm"]
    if card.license and re.fullmatch(r"[\w.\-]+", card.license):
        front["license"] = card.license.lower()
    elif card.license:
        front |= {"license": "other", "license_name": card.license}
    split = "test" if _figures(card, "test") else "val"
    figures, dataset = _figures(card, split), card.names["dataset"]
    if figures:
        known = {key: value for key in _headline(figures) if (value := figures[key]) is not None and value == value}
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": dataset, "type": dataset, "split": SPLITS[split]},
            "metrics": [{"type": key, "name": _title(key), "value": round(value, 2)} for key, value in known.items()],
        }
        front["model-index"] = [{"name": card.title, "results": [result]}]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)}---"


def _head(card: CardContent) -> str:
    names, facts, model = card.names, card.facts, card.config["model"]
    several = card.config["task"] == "multi_label"
    classes = f"{len(facts['class_names']):,} classes"
    kind = (
        f"A multi-label image classifier of {classes}, each of which is predicted independently"
        if several
        else f"An image classifier: one of {classes} for each image"
    )
    size = f"{facts['image_size']} x {facts['image_size']}"
    trained = f", trained on {names['dataset']} with `loss={names['loss']}`" if not card.source else ""
    text = (
        f"{kind}. Backbone `{model.get('name')}` with the head "
        f"`{names['head']}`, {card.parameters / 1e6:.1f} M parameters, input {size}{trained}."
    )
    if card.source:
        text += f" The weights were trained elsewhere: {card.source.get('recognised', card.source.get('file', ''))}."
    return f"# {card.title}\n\n{text}"


def _use(card: CardContent) -> str:
    facts, place = card.facts, "file" if card.config["dataset"].get("file") else "root"
    classes = facts["class_names"]
    if facts["thresholds"] is None:
        answer = "The class with the highest probability is the answer."
    else:
        cuts = np.asarray(facts["thresholds"], dtype=np.float64)
        same = bool(np.all(cuts == cuts[0]))
        span = f"{cuts[0]:.3g}" if same else f"its threshold, from {cuts.min():.3g} to {cuts.max():.3g}"
        answer = f"A class is predicted where its probability is above {span} ({facts['thresholds_from']})."
    get = f"\n    hf download {card.repo} --local-dir FOLDER" if card.repo else ""
    named = ", ".join(classes[:NAMED_CLASSES])
    if len(classes) > NAMED_CLASSES:
        named += f", ... (all {len(classes):,} in `classes.txt`)"
    resize = {
        "squish": "resized to the input size, the aspect ratio ignored",
        "crop": f"resized so that the shorter side is the input size / {facts['crop_pct']}, the centre cut out",
    }.get(facts["resize"], f"resized by {facts['resize']}")
    mean, std = (", ".join(f"{v:.4g}" for v in facts[key]) for key in ("mean", "std"))
    return f"""## Use

With mltrain and this folder, here called FOLDER:
{get}
    mltrain predict FOLDER photos/*.jpg
    mltrain evaluate FOLDER dataset.{place}=WHERE_THE_DATA_ARE
    mltrain export FOLDER                   # one ONNX file that needs neither mltrain nor PyTorch

In Python: `from mltrain import Predictor`, then `Predictor.from_run("FOLDER")("photo.jpg")`.

{answer}

Images are RGB, {resize} ({facts["interpolation"] or "as above"}, antialiased), divided by 255, and normalised with mean
{mean} and standard deviation {std}. `config.json` has the same in JSON.

Classes: {named}."""


def _results(card: CardContent) -> str:
    if not card.result:
        return "## Results\n\nNo evaluation came with these weights."
    rows = []
    for split, label in SPLITS.items():
        figures = _figures(card, split)
        if figures:
            rows.append([label, *(percent(figures.get(key)) for key in _headline(figures))])
    keys = _headline(_figures(card, "val") or _figures(card, "test"))
    table = _table(["split", *(_title(key) for key in keys)], rows)
    best = card.result.get("best") or {}
    text = [f"Percent. {_weights_note(card)}"]
    if best.get("epoch") is not None:
        by = _title(best.get("by") or "map")
        bias = "" if _figures(card, "test") else ", so these figures are a little too good: they are of the same images"
        text.append(f"Epoch {best['epoch']} was chosen by its validation {by}{bias}.")
    if card.stats is not None:
        groups = card.stats
        text.append(
            f"head: classes with at least {groups.head_min} training images; medium: at least {groups.medium_min}; "
            "tail: fewer."
        )
    parts = ["## Results", " ".join(text), table, *_meaning(card, keys), *_tuned(card)]
    classes = _class_table(card)
    if classes:
        parts.append(classes)
    return "\n\n".join(parts)


def _meaning(card: CardContent, keys: Sequence[str]) -> list[str]:
    if "map" not in keys:
        return []
    cut = card.config["metrics"]["threshold"]
    return [
        "mAP: mean of the average precision of the classes. OF1: F1 over all labels; CF1: F1 of the means of precision "
        f"and recall of the classes, both with the classes above {cut:g} predicted."
    ]


def _tuned(card: CardContent) -> list[str]:
    """Return the figures with the tuned thresholds, on other images than those they were found on."""
    found = card.thresholds
    if not found.get("figures"):
        return []
    if found.get("folds"):
        place = found["reported_on"]["name"]
        where = f"over {found['folds']} folds of {place}, each with the thresholds found on the others"
    else:
        where = f"on the {found['reported_on']['images']:,} images of {found['reported_on']['name']}"
    before, after = found.get("figures_before") or {}, found["figures"]
    figures = ", ".join(
        f"{_title(key)} {after[key]:.2f} ({percent(before.get(key))} with {card.config['metrics']['threshold']:g})"
        for key in ("OF1", "CF1", "macro_F1")
        if after.get(key) is not None
    )
    return [
        f"With the thresholds of `thresholds.json` (chosen by {found['chosen_by']} on {found['tuned_on']['name']}): "
        f"{figures}, {where}."
    ]


def _class_table(card: CardContent) -> str:
    """Return the table of the classes with the highest and lowest figures."""
    rows = []
    columns = list(card.per_class[0]) if card.per_class else []
    figure = next((c for c in columns if c.startswith(f"{RAW}_")), None)
    if figure is None:
        return ""
    for row in card.per_class:
        if row[figure] not in ("", None):
            rows.append((float(row[figure]), row))
    rows.sort(key=lambda pair: (-pair[0], -int(pair[1].get(f"{RAW}_positives") or 0)))
    if len(rows) < 2:
        return ""
    name = figure.removeprefix(f"{RAW}_")
    name = "AP" if name == "ap" else name
    cells = [
        [row["class"], row["group"], row["train_positives"], row.get(f"{RAW}_positives", ""), f"{value:.1f}"]
        for value, row in rows
    ]
    head = "The classes by validation " + name
    table = _table(["class", "group", "training images", "validation images", name], abridged(cells, SHOWN_CLASSES))
    return f"{head}, best and worst (`per_class.csv` has all):\n\n{table}"


def _data(card: CardContent) -> str:
    stats = card.stats
    if stats is None:
        return "" if card.source else f"## Data\n\nTrained on {card.names['dataset']}; no statistics of it were kept."
    positives, labels = stats.positives, int(stats.positives.sum())
    present = positives[positives > 0]
    lines = [
        f"Trained on {stats.num_images:,} images of {card.names['dataset']} with {labels:,} labels of "
        f"{len(positives):,} classes, {labels / max(stats.num_images, 1):.2f} per image."
    ]
    if len(present):
        lines.append(
            f"The most frequent class has {positives.max():,} images, the rarest {present.min():,}: imbalance "
            f"{positives.max() / present.min():,.0f} : 1."
        )
    empty = int((positives == 0).sum())
    unseen = len(stats.group_indices().get("unseen", ()))
    if empty > unseen:
        lines.append(f"{empty - unseen} classes have no training image.")
    if unseen:
        lines.append(f"{unseen} classes were not seen in training (zero-shot).")
    if int(stats.unknowns.sum()):
        share = stats.unknowns.sum() / (stats.num_images * len(positives))
        lines.append(f"{share:.1%} of the labels were unknown in training.")
    rows = [
        [name, str(len(index)), f"{int(positives[index].sum()):,}"]
        for name, index in stats.group_indices().items()
        if len(index)
    ]
    return "\n\n".join(["## Data", " ".join(lines), _table(["group", "classes", "labels"], rows)])


def _recipe(card: CardContent) -> str:
    if card.source:
        rows = [[key, f"`{spell(value)}`"] for key, value in card.source.items() if isinstance(value, str)]
        return "## Origin\n\n" + _table(["", ""], rows)
    cfg, runner, model = card.config, card.config["runner"], card.config["model"]
    start = model.get("checkpoint") or ("timm's pretrained weights" if model.get("pretrained") else "random weights")
    rows = [["backbone", f"`{model.get('name')}` from {PurePath(str(start)).name}{_frozen(model)}"]]
    for section in SECTIONS:
        component = cfg.get(section) or {}
        if component.get("_target_") is None:
            continue
        options = ", ".join(
            f"{key} {spell(value)}"
            for key, value in component.items()
            if key not in ("_target_", "name", "epochs") and value is not None
        )
        rows.append([section, f"`{card.names[section]}`{f': {options}' if options else ''}"])
    size = f"{runner['batch_size']}" + (f" x {runner['accumulate']}" if runner.get("accumulate", 1) > 1 else "")
    result = card.result
    rows.append(["training", f"{runner['epochs']} epochs, batch {size}, precision {runner['amp']}, seed {cfg['seed']}"])
    machine = card.environment
    if result.get("seconds"):
        devices = machine.get("gpus") or [(machine.get("cpu") or {}).get("model") or "CPU"]
        speed = f", {result['images_per_second']:,.0f} images/s" if result.get("images_per_second") else ""
        minutes = f"{result['seconds'] / 60:,.1f} minutes"
        rows.append(["time", f"{minutes}{speed} on {' + '.join(dict.fromkeys(devices))}"])
    if machine:
        packages = machine.get("packages") or {}
        versions = ", ".join(f"{k} {packages[k]}" for k in ("mltrain", "torch", "timm") if packages.get(k))
        commit = (machine.get("git") or {}).get("commit")
        rows.append(["versions", versions + (f", mltrain commit {commit[:10]}" if commit else "")])
    parts = ["## Training", _table(["", ""], rows), "`config.yaml` has every option."]
    if machine.get("command"):
        arguments = [str(text) for text in machine["command"]]
        what = "Command of the sweep that this run was part of" if "-m" in arguments else "Command"
        parts.append(f"{what}:\n\n    python " + " ".join(arguments))
    return "\n\n".join(parts)


def _limits(card: CardContent) -> str:
    lines = []
    stats = card.stats
    if stats is not None:
        tail = stats.group_indices()["tail"]
        if len(tail):
            lines.append(
                f"{len(tail)} of {len(stats.positives)} classes had fewer than {stats.medium_min} training images; "
                "their figures here may also come from few images."
            )
    absent = _figures(card, "test") or _figures(card, "val")
    if absent and absent.get("classes_without_positives"):
        lines.append(
            f"{int(absent['classes_without_positives'])} classes have no positive in the evaluated split: how good the "
            "model is for them is not known."
        )
    lines.append("The model knows only the classes listed above, and gives an answer for any image, whatever it shows.")
    lines.append("Probabilities are not calibrated: a threshold is not a rate of error.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licence(card: CardContent) -> str:
    start = card.config["model"]
    lines = [
        f"- The weights: {card.license}."
        if card.license
        else "- The weights: not stated. Ask who gave you this model.",
        f"- The training images: {card.data_license}."
        if card.data_license
        else "- The training images: not stated; the terms of the data set may bind the use of the weights.",
    ]
    if start.get("checkpoint") or start.get("pretrained"):
        lines.append("- Training started from other weights, whose licence may bind these too.")
    return "## Licence\n\n" + "\n".join(lines)


def _frozen(model: Mapping[str, Any]) -> str:
    stages = model.get("freeze_stages")
    return "" if not stages else ", frozen" if stages == -1 else f", first {stages} stages frozen"


def _weights_note(card: CardContent) -> str:
    averaged = (card.result.get("best") or {}).get("averaged")
    kind = "averaged (EMA)" if averaged else "raw (not averaged)"
    return f"Figures of the {kind} weights, which are those in `model.safetensors`."


def _figures(card: CardContent, split: str) -> Mapping[str, Any]:
    found = card.result if split == "val" else card.result.get("test") or {}
    return found.get(RAW) or {}


def _headline(figures: Mapping[str, Any]) -> tuple[str, ...]:
    headline = next((keys for keys in HEADLINES if keys[0] in figures), HEADLINES[0])
    return tuple(key for key in (*headline, "map_unseen") if key in figures)


def _title(key: str) -> str:
    return title(key, "{name} {group}")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(header, rows, left=range(len(header)))
