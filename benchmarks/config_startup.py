"""Time to a config error, to --help and to --cfg job, against a bare Hydra app with the same groups.

    python benchmarks/config_startup.py [--repeats 15]

The bare app is `@hydra.main` over a copy of the config folder (the sections of the dataclasses as files), with an empty
task function: its --help, its --cfg job, and its run, which composes the config and stops. Interleaved, medians.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from omegaconf import OmegaConf

from mltrain.config.schema import SECTIONS, RootOptions, section_options

ROOT = Path(__file__).resolve().parents[1]
BARE = """
import hydra

@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg):
    pass

main()
"""
CASES = {  # name: our arguments and exit code, the bare app's arguments
    "config error (unknown key)": (["runner.epoch=3"], 2, []),
    "config error (unknown option)": (["loss=asll"], 2, []),
    "--help": (["--help"], 0, ["--help"]),
    "--cfg job": (["--cfg", "job"], 0, ["--cfg", "job"]),
}


def bare_app(folder: Path) -> Path:
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name, section in SECTIONS.items():
        (folder / "configs" / name).mkdir(exist_ok=True)
        values = {key: option.default for key, option in section_options(section).items()}
        OmegaConf.save(OmegaConf.create(values), folder / "configs" / name / "default.yaml")
    base = {key: option.default for key, option in section_options(RootOptions).items()}
    OmegaConf.save(OmegaConf.create(base), folder / "configs/base.yaml")
    script = folder / "bare.py"
    script.write_text(BARE)
    return script


def seconds(script: Path, arguments: list[str], code: int, cwd: Path) -> float:
    start = time.perf_counter()
    run = subprocess.run([sys.executable, str(script), *arguments], cwd=cwd, capture_output=True, text=True)
    taken = time.perf_counter() - start
    if run.returncode != code:
        raise RuntimeError(f"{script.name} {' '.join(arguments)} left with {run.returncode}: {run.stderr[-500:]}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = bare_app(folder)
        print(f"{'':32}{'ours':>8}{'bare':>8}{'ratio':>8}   (seconds, medians of {repeats}; target <= 1.5)")
        for case, (ours, code, theirs) in CASES.items():
            pairs = []
            for number in range(repeats + 1):
                pair = (
                    seconds(ROOT / "tools/train.py", ours, code, folder),
                    seconds(bare, theirs, 0, folder),
                )
                pairs += [pair] if number else []  # the first fills the caches
            mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"{case:32}{mine:8.3f}{other:8.3f}{mine / other:8.2f}")


if __name__ == "__main__":
    main()
