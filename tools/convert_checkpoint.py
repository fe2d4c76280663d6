"""Make a run folder of a published checkpoint: evaluate, predict, export and fine-tune it as a run of your own.

    python tools/convert_checkpoint.py MS_COCO_TRresNet_L_448_86.6.pth
    python tools/convert_checkpoint.py FILE classes=names.txt out=runs/converted/mine
    python tools/convert_checkpoint.py FILE dataset=coco head.lam=0.4 model.mean=[0,0,0] model.std=[1,1,1]
    python tools/convert_checkpoint.py model.safetensors model.name=convnext_tiny
    python tools/convert_checkpoint.py zoo:mld_tresnet_l_coco        download it first; zoo: lists all

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

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.console import exit_on_error  # noqa: E402
from mltrain.errors import ConfigError  # noqa: E402


def main(words: list[str]) -> None:
    from mltrain.config.compose import tool_options
    from mltrain.config.convert import convert
    from mltrain.config.schema import Convert
    from mltrain.config.zoo import PREFIX, run_folder

    files = [word for word in words if "=" not in word or Path(word).is_file()]
    if len(files) != 1:
        raise ConfigError(f"name one checkpoint, then KEY=VALUE (found {len(files)}); see --help")
    if files[0].startswith(PREFIX):
        run_folder(files[0], words)
        return
    options, rest = tool_options(Convert, [word for word in words if word != files[0]])
    convert(Path(files[0]), options, rest)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write((__doc__ or "").strip() + "\n")
        sys.exit(0)
    with exit_on_error():
        main(sys.argv[1:])
    sys.exit(0)
