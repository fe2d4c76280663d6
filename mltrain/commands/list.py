"""List what a config can choose: losses, heads, models, datasets, experiments and the options of every other group.

    mltrain list                        the groups
    mltrain list losses                 each with its paper
    mltrain list models                 the prepared ones
    mltrain list models 'resnet*'       timm's models of these names, with input size and parameters
    mltrain list experiments 'coco_*'

`mltrain train --help loss=db` describes one of them with all its options.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from mltrain import console
from mltrain.cli import Command
from mltrain.config.option_help import aligned
from mltrain.config.overrides import Source
from mltrain.config.timm_models import timm_models
from mltrain.config.topic_help import headlines
from mltrain.errors import ConfigError
from mltrain.text import did_you_mean

MOST_DESCRIBED = 150
"""Models up to this number are built, on no device, to count their parameters; of more only the names are listed."""


def list_options(arguments: Sequence[str], source: Source | None = None) -> str:
    """Return the table of a group's options, or of timm's models. Raises ConfigError."""
    source = source or Source()
    groups = [group for group in source.groups() if source.options(group) not in ([], ["default"])]
    if not arguments:
        return aligned({f"mltrain list {group}": ", ".join(source.options(group)) for group in groups})
    name, pattern, *more = [*arguments, "*"] if len(arguments) == 1 else arguments
    group = next((group for group in groups if name in (group, f"{group}s", f"{group}es")), None)
    if group is None:
        raise ConfigError(f"{name}: there is no such group{did_you_mean(name, groups)}\nallowed: {', '.join(groups)}")
    if more:
        raise ConfigError(f"{' '.join(more)}: one PATTERN at a time; quote it, so that the shell leaves it alone")
    rows = {key: text for key, text in headlines(group, source).items() if fnmatchcase(key, pattern)}
    parts = [aligned(rows)] if rows else []
    if group == "model":
        parts.append(
            f"Any of timm's {len(timm_models())} models works as model=NAME; find them with: "
            f"mltrain list models 'resnet*'"
            if pattern == "*"
            else _timm_table([model for model in timm_models() if fnmatchcase(model, pattern)])
        )
    parts = [part for part in parts if part]
    if not parts:
        raise ConfigError(f"{pattern}: no {group} of this name; * stands for any text, as in '*{pattern.strip('*')}*'")
    return "\n\n".join(parts)


def _timm_table(names: list[str]) -> str:
    if len(names) > MOST_DESCRIBED:
        return "\n".join(names) + f"\n\n{len(names)} models; of up to {MOST_DESCRIBED} the sizes are listed too"
    lines = [f"{'timm model':<50}{'input':>8}{'parameters':>13}  pretrained"] if names else []
    for name in names:
        facts = _facts(name)
        lines.append(f"{name:<50}{facts['size']:>8}{facts['parameters']:>12.1f}M  {facts['pretrained']}")
    return "\n".join(lines)


def _facts(name: str) -> dict[str, Any]:
    """Return input size, millions of parameters without the classifier, and whether timm has weights."""
    import timm
    import torch

    with torch.device("meta"):
        model: Any = timm.create_model(name, num_classes=0)
    size = model.default_cfg["input_size"][-1]
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return {"size": size, "parameters": parameters, "pretrained": "yes" if timm.is_model_pretrained(name) else "no"}


def run(arguments: Sequence[str]) -> None:
    console.write(list_options(arguments) + "\n")


COMMAND = Command(run, about=__doc__, takes="arguments")
