"""Make a run folder of a published checkpoint: evaluate, predict, export and fine-tune it as a run of your own.

    mltrain convert_checkpoint MS_COCO_TRresNet_L_448_86.6.pth
    mltrain convert_checkpoint FILE classes=names.txt out=runs/converted/mine
    mltrain convert_checkpoint FILE dataset=coco head.lam=0.4 model.mean=[0,0,0] model.std=[1,1,1]
    mltrain convert_checkpoint model.safetensors model.name=convnext_tiny
    mltrain convert_checkpoint zoo:mld_tresnet_l_coco        download it first; zoo: lists all

Recognised by the names and shapes of their tensors: TResNet and ResNet with the heads of ASL, CSL, ML-Decoder (groups,
zero-shot), Query2Label, CSRA, Distribution-Balanced Loss, or a linear layer; and models of timm's, which have to be
named. It says what it found, and what no tensor says and is assumed: KEY=VALUE sets that (model.*, head.*, dataset=...,
metrics.threshold ...). A file is read without running code in it.

    classes=FILE          class names, one a line; or a csv of id,name for a file whose names are ids
    out=DIR               default: <paths.runs>/converted/<name of the file>
    overwrite=true        replace what an earlier conversion left there

To train from it: model.checkpoint=DIR with the same model (or the FILE itself).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mltrain.cli import Command
from mltrain.errors import ConfigError
from mltrain.runs.obtain import PREFIX, run_folder


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside a config's."""

    out: str | None = None  # run folder to write; null: <paths.runs>/converted/<name of the file>
    classes: str | None = None  # class names, one a line, in the order of the logits; or a csv of the file's ids, names
    overwrite: bool = False  # replace what is in the folder


def convert_checkpoint(arguments: Sequence[str], options: Options) -> None:
    """Convert a file, or download and convert `zoo:NAME`; the other arguments are KEY=VALUE of the config.

    Raises:
        ConfigError: not one file is named, or an option is wrong.
        CheckpointError: see `mltrain.runs.convert.convert`.
    """
    files = [word for word in arguments if "=" not in word or Path(word).is_file()]
    if len(files) != 1:
        raise ConfigError(f"name one checkpoint, then KEY=VALUE (found {len(files)}); see --help")
    if files[0].startswith(PREFIX):
        run_folder(files[0], arguments)
        return
    from mltrain.runs.convert import convert

    convert(
        Path(files[0]),
        [word for word in arguments if word != files[0]],
        out=Path(options.out) if options.out else None,
        classes=options.classes,
        overwrite=options.overwrite,
    )


COMMAND = Command(convert_checkpoint, about=__doc__, takes="arguments", options=Options)
