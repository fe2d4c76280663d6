"""The model card of a run: the model, its use, its results, its training data, its training and its licence.

Markdown with the YAML front matter that the Hugging Face hub reads. All of it comes from the files of the run; missing
facts are left out or called unknown. The text is in html/templates/model_card.md.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import yaml

from mltrain.engine.run_folder import RAW, SPLITS
from mltrain.labels import LabelStats
from mltrain.report.html.page import render
from mltrain.report.tables import HEADLINES, abridged, markdown_table, percent, title
from mltrain.sizes import height_width
from mltrain.text import counted, spell
from mltrain.transcript import repeating

SHOWN_CLASSES = 5
"""number of best, and of worst, classes in the table"""
NAMED_CLASSES = 20
"""most classes that the card names"""
RESIZE = {
    "squish": "resized to the input size, the aspect ratio ignored",
    "crop": "resized so that the shorter side is the input size / {crop_pct}, the centre cut out",
}
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
    facts, stats = card.facts, card.stats
    figures = {split: _figures(card, split) for split in SPLITS}
    headline = _headline(figures["val"] or figures["test"])
    classes = counted(len(facts["class_names"]), "class")
    kind = f"An image classifier: one of {classes} for each image"
    if card.config["task"] == "multi_label":
        kind = f"A multi-label image classifier of {classes}, each of which is predicted independently"
    evaluated = figures["test"] or figures["val"]
    class_figure, class_table = _class_table(card)
    command = repeating(card.environment)
    context: dict[str, Any] = {
        "front": _front(card, "test" if figures["test"] else "val"),
        "model": card.config["model"],
        "best": {"averaged": False, "epoch": None, "by": None} | dict(card.result.get("best") or {}),
        "kind": kind,
        "sides": " x ".join(map(str, height_width(facts["image_size"]))),
        "resize": RESIZE.get(facts["resize"], f"resized by {facts['resize']}").format(crop_pct=facts["crop_pct"]),
        "cuts": None if facts["thresholds"] is None else _span(np.asarray(facts["thresholds"], dtype=np.float64)),
        "headline": headline,
        "results": _results(figures, headline),
        "absent": int(evaluated.get("classes_without_positives") or 0),
        "recipe": _table(["", ""], _recipe(card)),
        "command": shlex.join(command),
        "of_sweep": command[:1] == ["mltrain"] and "-m" in command,
        **_tuned(card),
    }
    if stats is not None:
        positives, groups = stats.positives, {k: index for k, index in stats.group_indices().items() if len(index)}
        rows = [[k, str(len(index)), f"{int(positives[index].sum()):,}"] for k, index in groups.items()]
        context |= {
            "positives": positives,
            "labels": int(positives.sum()),
            "rarest": positives[positives > 0].min(initial=positives.max(initial=0)),
            "empty": int((positives == 0).sum()),
            "unseen": len(groups.get("unseen", ())),
            "tail": len(groups.get("tail", ())),
            "unknown": stats.unknowns.sum() / max(stats.num_images * len(positives), 1),
            "group_table": _table(["group", "classes", "labels"], rows),
        }
    context |= {"class_table": class_table, "class_figure": class_figure, "named": NAMED_CLASSES, "title": _title}
    return render("model_card.md", card=card, facts=facts, stats=stats, figures=figures, **context)


def _front(card: CardContent, split: str) -> str:
    """Return the YAML front matter."""
    task = f"{card.config['task'].replace('_', '-')}-classification"
    front: dict[str, Any] = {"library_name": "mltrain", "pipeline_tag": "image-classification"}
    front["tags"] = [task, "image-classification", "timm"]
    if card.license and re.fullmatch(r"[\w.\-]+", card.license):
        front["license"] = card.license.lower()
    elif card.license:
        front |= {"license": "other", "license_name": card.license}
    figures, dataset = _figures(card, split), card.names["dataset"]
    if figures:
        known = {key: value for key in _headline(figures) if (value := figures[key]) is not None and value == value}
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": dataset, "type": dataset, "split": SPLITS[split]},
            "metrics": [{"type": key, "name": _title(key), "value": round(value, 2)} for key, value in known.items()],
        }
        front["model-index"] = [{"name": card.title, "results": [result]}]
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)


def _span(cuts: np.ndarray) -> str:
    same = bool(np.all(cuts == cuts[0]))
    return f"{cuts[0]:.3g}" if same else f"its threshold, from {cuts.min():.3g} to {cuts.max():.3g}"


def _results(figures: Mapping[str, Mapping[str, Any]], headline: Sequence[str]) -> str:
    """Return the table of the figures of each split."""
    rows = [
        [label, *(percent(figures[split].get(key)) for key in _headline(figures[split]))]
        for split, label in SPLITS.items()
        if figures[split]
    ]
    return _table(["split", *map(_title, headline)], rows)


def _tuned(card: CardContent) -> dict[str, str]:
    """Return the figures with the tuned thresholds, on other images than those they were found on."""
    found = card.thresholds
    if not found.get("figures"):
        return {"tuned": ""}
    place = found["reported_on"]["name"]
    if found.get("folds"):
        where = f"over {found['folds']} folds of {place}, each with the thresholds found on the others"
    else:
        where = f"on the {found['reported_on']['images']:,} images of {place}"
    before, after = found.get("figures_before") or {}, found["figures"]
    threshold = card.config["metrics"]["threshold"]
    texts = (
        f"{_title(key)} {after[key]:.2f} ({percent(before.get(key))} with {threshold:g})"
        for key in ("OF1", "CF1", "macro_F1")
        if after.get(key) is not None
    )
    return {"tuned": ", ".join(texts), "where_tuned": where}


def _class_table(card: CardContent) -> tuple[str, str]:
    """Return the figure that ranks the classes, and the table of the highest and lowest; empty without figures."""
    figure = next((name for row in card.per_class for name in row if name.startswith(f"{RAW}_")), None)
    if figure is None:
        return "", ""
    rows = [(float(row[figure]), row) for row in card.per_class if row[figure] not in ("", None)]
    rows.sort(key=lambda pair: (-pair[0], -int(pair[1].get(f"{RAW}_positives") or 0)))
    if len(rows) < 2:
        return "", ""
    name = figure.removeprefix(f"{RAW}_")
    name = "AP" if name == "ap" else name
    cells = [
        [row["class"], row["group"], row["train_positives"], row.get(f"{RAW}_positives", ""), f"{value:.1f}"]
        for value, row in rows
    ]
    header = ["class", "group", "training images", "validation images", name]
    return name, _table(header, abridged(cells, SHOWN_CLASSES))


def _recipe(card: CardContent) -> list[list[str]]:
    """Return the rows on the training, or on the file that the weights came in."""
    if card.source:
        return [[key, f"`{spell(value)}`"] for key, value in card.source.items() if isinstance(value, str)]
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
    rows.append(
        [
            "training",
            f"{counted(runner['epochs'], 'epoch')}, batch {size}, precision {runner['amp']}, seed {cfg['seed']}",
        ]
    )
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
    return rows


def _frozen(model: Mapping[str, Any]) -> str:
    stages = model.get("freeze_stages")
    return "" if not stages else ", frozen" if stages == -1 else f", first {stages} stages frozen"


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
