"""Advice on options that were written with dashes, as other programs take them: `--epochs 3`."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence

from mltrain.config.schema import INJECTED, SECTIONS, RootOptions, section_options
from mltrain.text import nearest

# Often used options of components; those of the built-in sections are in their dataclasses.
_COMPONENT_KEYS = {
    **{key: f"optimizer.{key}" for key in ("lr", "weight_decay", "betas")},
    **{key: f"model.{key}" for key in ("image_size", "pretrained", "checkpoint")},
    **{"warmup_epochs": "schedule.warmup_epochs", "dropout": "head.dropout", "experiment": "+experiment"},
}
# Flags of other programs, and what does the same here.
_ELSEWHERE = {
    "resume": "repeat the command without it: an unfinished run goes on by itself",
    "gpus": "start one process for each GPU: torchrun --nproc_per_node=N -m mltrain train ...",
    "config": "configs of your own lie in a folder: --config-dir DIR, then GROUP=NAME or +experiment=NAME",
}


def config_keys() -> dict[str, str]:
    """Return the keys of a training, by their last part."""
    options = {key: f"{name}.{key}" for name, section in SECTIONS.items() for key in section_options(section)}
    groups = {name: name for name in (*INJECTED, *section_options(RootOptions))}
    return options | groups | _COMPONENT_KEYS


def advice(argv: Sequence[str], flags: Collection[str], keys: Mapping[str, str], *, training: bool) -> str:
    """Return what to write instead of the last unknown flag, or an empty text.

    Args:
        argv: arguments.
        flags: those that there are.
        keys: what an argument may set, by its last part.
        training: the command takes the config of a training.
    """
    unknown = [place for place, text in enumerate(argv) if text.startswith("-") and text not in flags]
    if not unknown:
        return ""
    flag, _, value = argv[unknown[-1]].lstrip("-").partition("=")
    if training and flag in _ELSEWHERE:
        return _ELSEWHERE[flag]
    if not value:
        value = next((text for text in argv[unknown[-1] + 1 :][:1] if not text.startswith("-")), "")
    near = nearest(flag.replace("-", "_").split(".")[-1], keys)
    if near is None:
        example = f"e.g. {next(iter(keys.values()), 'out')}=VALUE"
    else:
        example = f"did you mean {keys[near]}={shlex.quote(value) if value else 'VALUE'}?"
    return f"options are written KEY=VALUE, without dashes: {example}"
