"""Make a run folder of a published checkpoint: evaluate, predict, export and fine-tune it as a run of your own.

    mltrain convert_checkpoint MS_COCO_TRresNet_L_448_86.6.pth
    mltrain convert_checkpoint FILE classes=names.txt out=runs/converted/mine
    mltrain convert_checkpoint FILE dataset=coco head.lam=0.4 model.mean=[0,0,0] model.std=[1,1,1]
    mltrain convert_checkpoint model.safetensors model.name=convnext_tiny
    mltrain convert_checkpoint zoo:mld_tresnet_l_coco        download it first; zoo: lists all

The command recognises models by the names and shapes of their tensors: TResNet and ResNet with the heads of ASL, CSL,
ML-Decoder (groups, zero-shot), Query2Label, CSRA, Distribution-Balanced Loss, or a linear layer. A timm model needs its
name: model.name=NAME. The command prints what it found, and the assumptions that no tensor confirms; KEY=VALUE changes
those (model.*, head.*, dataset=..., metrics.threshold ...). Reading a file never runs code in it.

To train from the run folder: model.checkpoint=DIR with the same model (or the FILE itself).
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
    """Options of the command itself, beside the config's."""

    out: str | None = None
    """run folder to write; null: <paths.runs>/converted/<name of the file>"""
    classes: str | None = None
    """file of class names, one per line, in the order of the logits; or csv of id,name if the checkpoint has ids"""
    overwrite: bool = False
    """replace an earlier conversion in the folder"""


def convert_checkpoint(arguments: Sequence[str], options: Options) -> None:
    """Convert a file, or download and convert `zoo:NAME`; the other arguments are KEY=VALUE of the config.

    Raises:
        ConfigError: the arguments do not name exactly one file, or an option is wrong.
        CheckpointError: see `mltrain.runs.convert.convert`.
    """
    files = [text for text in arguments if "=" not in text or Path(text).is_file()]
    if len(files) != 1:
        raise ConfigError(f"name one checkpoint, then KEY=VALUE (found {len(files)}); see --help")
    out = Path(options.out) if options.out else None
    if files[0].startswith(PREFIX):
        run_folder(files[0], arguments, out=out, classes=options.classes, overwrite=options.overwrite)
        return
    from mltrain.runs.convert import convert

    words = [text for text in arguments if text != files[0]]
    convert(Path(files[0]), words, out=out, classes=options.classes, overwrite=options.overwrite)


COMMAND = Command(convert_checkpoint, about=__doc__, takes="arguments", options=Options)
