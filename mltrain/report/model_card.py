"""The model card of a run: what the model is, how to use it, what it was trained on, how good it is, its licence.

Markdown with the YAML front matter that the Hugging Face hub reads. All of it comes from what the run left behind; what
is not known is left out or said to be unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from mltrain.labels import LabelStats
from mltrain.report.tables import HEADLINES

SHOWN_CLASSES = 5
"""best and worst classes in the table"""
NAMED_CLASSES = 20
"""of more classes the card names some"""
SECTIONS = ("head", "loss", "optimizer", "schedule", "ema", "sampler", "augment", "mix", "partial", "curriculum")


@dataclass(frozen=True)
class CardSource:
    """What a card is made of; an empty mapping where the run has no such file."""

    title: str
    config: Mapping[str, Any]
    """plain, completed"""
    names: Mapping[str, str]
    """what the components of the config are called: {"loss": "asl", ...}"""
    facts: Mapping[str, Any]
    """class_names, thresholds, image_size, resize, mean, std, weights: what a program needs to use the model"""
    parameters: int
    stats: LabelStats | None
    result: Mapping[str, Any] = field(default_factory=dict)
    """result.json, the figures under "val" being those of these weights"""
    per_class: Sequence[Mapping[str, str]] = ()
    """rows of per_class.csv"""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """environment.json"""
    source: Mapping[str, Any] = field(default_factory=dict)
    """source.json: of weights that were trained elsewhere"""
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    """thresholds.json: tuned, and what they gave"""
    license: str | None = None
    data_license: str | None = None
    repo: str | None = None


def model_card(card: CardSource) -> str:
    """The card as Markdown."""
    sections = (_head(card), _use(card), _results(card), _data(card), _recipe(card), _limits(card), _licence(card))
    return "\n\n".join(part for part in (_front(card), *sections) if part) + "\n"


def _front(card: CardSource) -> str:
    lines = ["---", "library_name: mltrain", "pipeline_tag: image-classification"]
    lines += ["tags:", f"- {card.config['task'].replace('_', '-')}-classification", "- image-classification", "- timm"]
    if card.license and re.fullmatch(r"[\w.\-]+", card.license):
        lines.append(f"license: {_quoted(card.license.lower())}")
    elif card.license:
        lines += ["license: other", f"license_name: {_quoted(card.license)}"]
    dataset = card.names["dataset"]
    figures = _figures(card, "test") or _figures(card, "val")
    if figures:
        split = "test" if _figures(card, "test") else "validation"
        lines += ["model-index:", f"- name: {_quoted(card.title)}", "  results:", "  - task:"]
        lines += ["      type: image-classification", "    dataset:", f"      name: {_quoted(dataset)}"]
        lines += [f"      type: {_quoted(dataset)}", f"      split: {split}", "    metrics:"]
        for key in _headline(figures):
            value = figures.get(key)
            if value is not None and value == value:
                lines += [f"    - type: {_quoted(key)}", f"      name: {_quoted(_title(key))}"]
                lines.append(f"      value: {value:.2f}")
    return "\n".join([*lines, "---"])


def _head(card: CardSource) -> str:
    names, facts, model = card.names, card.facts, card.config["model"]
    several = card.config["task"] == "multi_label"
    classes = f"{len(facts['class_names']):,} classes"
    kind = (
        f"A multi-label image classifier of {classes}, each of which is answered by itself"
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


def _use(card: CardSource) -> str:
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
    python tools/predict.py FOLDER photos/*.jpg
    python tools/evaluate.py FOLDER dataset.{place}=WHERE_THE_DATA_ARE
    python tools/export.py FOLDER                   # one ONNX file that needs neither mltrain nor PyTorch

In Python: `from mltrain import Predictor`, then `Predictor.from_run("FOLDER")("photo.jpg")`.

{answer}

Images are RGB, {resize} ({facts["interpolation"] or "as above"}, antialiased), divided by 255, and normalised with mean
{mean} and standard deviation {std}. `config.json` says the same in JSON.

Classes: {named}."""


def _results(card: CardSource) -> str:
    if not card.result:
        return "## Results\n\nNo evaluation came with these weights."
    rows = []
    for split, label in (("val", "validation"), ("test", "test")):
        figures = _figures(card, split)
        if figures:
            rows.append([label, *(_percent(figures.get(key)) for key in _headline(figures))])
    keys = _headline(_figures(card, "val") or _figures(card, "test"))
    table = _table(["split", *(_title(key) for key in keys)], rows)
    best = card.result.get("best") or {}
    text = [f"Percent. {_weights_words(card)}"]
    if best.get("epoch") is not None:
        by = _title(best.get("by") or "map")
        text.append(
            f"Epoch {best.get('epoch')} was chosen by its validation {by}"
            + ("." if _figures(card, "test") else ", so these figures flatter a little: they are of the same images.")
        )
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


def _meaning(card: CardSource, keys: Sequence[str]) -> list[str]:
    if "map" not in keys:
        return []
    cut = card.config["metrics"]["threshold"]
    return [
        "mAP: the average precision of each class, and of these the mean. OF1: F1 over all labels, CF1: over the means "
        f"of precision and recall of the classes, both with the classes above {cut:g} predicted."
    ]


def _tuned(card: CardSource) -> list[str]:
    """What the tuned thresholds gave, on images that they were not found on."""
    found = card.thresholds
    if not found.get("figures"):
        return []
    if found.get("folds"):
        place = found["reported_on"]["name"]
        where = f"over {found['folds']} folds of {place}, each with the thresholds that the others gave"
    else:
        where = f"on the {found['reported_on']['images']:,} images of {found['reported_on']['name']}"
    before, after = found.get("figures_before") or {}, found["figures"]
    figures = ", ".join(
        f"{_title(key)} {after[key]:.2f} ({_percent(before.get(key))} with {card.config['metrics']['threshold']:g})"
        for key in ("OF1", "CF1", "macro_F1")
        if after.get(key) is not None
    )
    return [
        f"With the thresholds of `thresholds.json` (chosen by {found['chosen_by']} on {found['tuned_on']['name']}): "
        f"{figures}, {where}."
    ]


def _class_table(card: CardSource) -> str:
    """The classes that do best and worst."""
    rows = []
    columns = list(card.per_class[0]) if card.per_class else []
    figure = next((c for c in columns if c.startswith("val_")), None)
    if figure is None:
        return ""
    for row in card.per_class:
        if row[figure] not in ("", None):
            rows.append((float(row[figure]), row))
    rows.sort(key=lambda pair: (-pair[0], -int(pair[1].get("val_positives") or 0)))
    if len(rows) < 2:
        return ""
    few = len(rows) <= 2 * SHOWN_CLASSES
    shown = rows if few else [*rows[:SHOWN_CLASSES], *rows[-SHOWN_CLASSES:]]
    title = figure.removeprefix("val_")
    title = "AP" if title == "ap" else title
    cells = [
        [row["class"], row["group"], row["train_positives"], row.get("val_positives", ""), f"{value:.1f}"]
        for value, row in shown
    ]
    if not few:
        cells.insert(SHOWN_CLASSES, [f"... {len(rows) - len(shown)} more", "", "", "", ""])
    head = "The classes by validation " + title
    table = _table(["class", "group", "training images", "validation images", title], cells)
    return f"{head}, best and worst (`per_class.csv` has all):\n\n{table}"


def _data(card: CardSource) -> str:
    stats = card.stats
    if stats is None:
        return "" if card.source else f"## Data\n\nTrained on {card.names['dataset']}; no statistics of it were kept."
    positives, labels = stats.positives, int(stats.positives.sum())
    present = positives[positives > 0]
    lines = [
        f"Trained on {stats.num_images:,} images of {card.names['dataset']} with {labels:,} labels of "
        f"{len(positives):,} classes, {labels / max(stats.num_images, 1):.2f} an image."
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


def _recipe(card: CardSource) -> str:
    if card.source:
        rows = [[key, f"`{_plain(value)}`"] for key, value in card.source.items() if isinstance(value, str)]
        return "## Origin\n\n" + _table(["", ""], rows)
    cfg, runner, model = card.config, card.config["runner"], card.config["model"]
    start = model.get("checkpoint") or ("timm's pretrained weights" if model.get("pretrained") else "random weights")
    rows = [["backbone", f"`{model.get('name')}` from {PurePath(str(start)).name}{_frozen(model)}"]]
    for section in SECTIONS:
        component = cfg.get(section) or {}
        if component.get("_target_") is None:
            continue
        options = ", ".join(
            f"{key} {_plain(value)}"
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
        words = [str(word) for word in machine["command"]]
        what = "Command, of a sweep of which this was one run" if "-m" in words else "Command"
        parts.append(f"{what}:\n\n    python " + " ".join(words))
    return "\n\n".join(parts)


def _limits(card: CardSource) -> str:
    lines = []
    stats = card.stats
    if stats is not None:
        tail = stats.group_indices()["tail"]
        if len(tail):
            lines.append(
                f"{len(tail)} of {len(stats.positives)} classes had fewer than {stats.medium_min} training images; "
                "what is said of them here may rest on few images too."
            )
    absent = _figures(card, "test") or _figures(card, "val")
    if absent and absent.get("classes_without_positives"):
        lines.append(
            f"{int(absent['classes_without_positives'])} classes have no positive in the evaluated split: how good the "
            "model is at them is not known."
        )
    lines.append("The model knows no other class than those listed, and answers for any image, whatever it shows.")
    lines.append("Probabilities are not calibrated: a threshold is a cut, not a rate of error.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licence(card: CardSource) -> str:
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


def _weights_words(card: CardSource) -> str:
    averaged = (card.result.get("best") or {}).get("averaged")
    kind = "averaged (EMA)" if averaged else "raw (not averaged)"
    return f"Of the {kind} weights, which are those in `model.safetensors`."


def _figures(card: CardSource, split: str) -> Mapping[str, Any]:
    found = card.result if split == "val" else card.result.get("test") or {}
    return found.get("val") or {}


def _headline(figures: Mapping[str, Any]) -> tuple[str, ...]:
    headline = next((keys for keys in HEADLINES if keys[0] in figures), HEADLINES[0])
    return tuple(key for key in (*headline, "map_unseen") if key in figures)


def _title(key: str) -> str:
    from mltrain.metrics.summary import TITLES  # imports torch

    name, _, group = key.rpartition("_")
    if group in ("head", "medium", "tail", "unseen"):
        return f"{TITLES.get(name, name)} {group}"
    return TITLES.get(key, key)


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.2f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), "|" + " --- |" * len(header), *(line(row) for row in rows)])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a YAML string


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return str(value)
