"""The command line, in real processes that may not import torch."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mltrain import console
from mltrain.config.overrides import CONFIGS
from mltrain.errors import ConfigError

ROOT = CONFIGS.parent
Tool = Callable[..., "subprocess.CompletedProcess[str]"]

SCRIPT = """
import sys
import threading
from mltrain import cli
from mltrain.console import exit_on_error
from mltrain.errors import DataError, Interrupted

def closed(path, flags):
    raise PermissionError(13, "Permission denied", path)

def work(cfg):
    if cfg.seed == 7:
        raise DataError("no such file: seven")
    if cfg.seed == 8:
        raise KeyError("eight")
    if cfg.seed == 9:
        raise KeyboardInterrupt
    if cfg.seed == 10:
        raise Interrupted("stopped by SIGTERM", 15)
    if cfg.seed == 11:
        raise OSError(28, "No space left on device", "runs/metrics.jsonl")
    if cfg.seed == 12:
        thread = threading.Thread(target=open, args=("/nowhere/closed",), kwargs={"opener": closed})
        thread.start()
        thread.join()
        open("/nowhere/closed", opener=closed)
    print("ran", cfg.name, cfg.seed)

with exit_on_error():
    cli.execute(cli.Command(work, "about this tool", "config", after_sweep=lambda folder: None), sys.argv[1:])
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "tool.py"
    path.write_text(SCRIPT)
    return path


def test_help_is_short_and_names_groups_options_and_keys(tool: Tool) -> None:
    run = tool("--help")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) < 60
    assert max(map(len, lines)) <= 120
    for expected in ("mltrain train -m loss=", "+experiment", "ml_decoder", "runner.epochs", "coco2017"):
        assert expected in run.stdout


def test_cfg_job_prints_the_whole_checked_config(tool: Tool) -> None:
    run = tool("--cfg", "job", "loss=bce", "runner.epochs=3")
    assert run.returncode == 0, run.stderr
    shown = yaml.safe_load(run.stdout)
    assert (shown["runner"]["epochs"], shown["schedule"]["epochs"], shown["name"]) == (3, 3, "small-gap-bce")
    assert tool("--cfg", "job", "runner.epoch=3").returncode == 2


def test_a_config_error_is_a_message_and_exit_code_2(tool: Tool) -> None:
    run = tool("runner.epoch=3", "loss=asll")
    assert run.returncode == 2
    assert "did you mean runner.epochs?" in run.stderr
    assert "did you mean loss=asl?" in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_dashes_before_a_key_are_answered_with_the_key(tool: Tool) -> None:
    run = tool("--epochs", "3")
    assert run.returncode == 2
    assert "did you mean runner.epochs=3?" in run.stderr


@pytest.mark.parametrize(
    ("seed", "code", "message"),
    [
        (1, 0, ""),
        (7, 2, "no such file: seven"),
        (8, 1, "KeyError: 'eight'"),
        (9, 130, "interrupted"),
        (10, 143, "stopped by SIGTERM"),
        (11, 2, "No space left on device: 'runs/metrics.jsonl': free some space"),
        (12, 2, "Permission denied: '/nowhere/closed': ask for write permission"),
    ],
)
def test_errors_of_the_work_become_messages_and_exit_codes(
    tool: Tool, script: Path, seed: int, code: int, message: str
) -> None:
    run = tool(f"seed={seed}", script=script)
    assert run.returncode == code
    assert message in run.stderr
    assert ("Traceback" in run.stderr) == (seed == 8), "only the unexpected has a traceback"


def test_a_sweep_runs_every_combination_and_leaves_only_its_record(tool: Tool, script: Path, tmp_path: Path) -> None:
    run = tool("-m", "loss=bce,asl", "head=gap,ml_decoder", "seed=0,1", script=script)
    assert run.returncode == 0, run.stderr
    expected = {f"ran small-{h}-{lo} {s}" for lo in ("bce", "asl") for h in ("gap", "ml_decoder") for s in (0, 1)}
    assert set(run.stdout.splitlines()) == expected
    assert "job 8 of 8: loss=asl head=ml_decoder seed=1" in run.stderr
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.yaml")}
    assert len(left) == 1
    assert left.pop().startswith("runs/multirun/")
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_takes_hydras_globs_and_ranges(tool: Tool, script: Path) -> None:
    run = tool("-m", "head=glob(*)", "seed=range(0,2)", "loss=choice(bce)", "ema=none", script=script)
    assert run.returncode == 0, run.stderr
    assert {"ran small-gap-bce 0", "ran small-ml_decoder-bce 1"} <= set(run.stdout.splitlines())


def test_a_sweep_goes_on_after_a_failed_job_and_says_so(tool: Tool, script: Path) -> None:
    run = tool("-m", "seed=7,1", script=script)
    assert run.returncode == 2
    assert "ran small-gap-asl 1" in run.stdout
    assert "1 of 2 jobs failed: seed=7" in run.stderr


def test_a_sweep_ends_where_it_is_interrupted(tool: Tool, script: Path) -> None:
    run = tool("-m", "seed=10,1", script=script)
    assert run.returncode == 143
    assert run.stdout == ""


def test_a_sweep_with_a_typo_in_one_job_runs_nothing(tool: Tool, script: Path) -> None:
    for overrides in (["loss=bce,asll"], ["loss=bce,asl", "loss.gamma_neg=1"], ["seed=0,x"]):
        run = tool("-m", *overrides, script=script)
        assert run.returncode == 2
        assert run.stdout == ""


def test_a_sweep_under_torchrun_is_refused(tool: Tool) -> None:
    run = tool("-m", "seed=0,1", WORLD_SIZE="2", RANK="0")
    assert run.returncode == 2
    assert "-m under torchrun" in run.stderr


def test_a_copy_of_the_project_elsewhere_finds_its_own_configs(tool: Tool, tmp_path: Path) -> None:
    for name in ("configs", "mltrain", "tools"):
        shutil.copytree(ROOT / name, tmp_path / "elsewhere" / name)
    copied = tmp_path / "elsewhere/configs/loss/asl.yaml"
    copied.write_text(copied.read_text() + "\nunheard_of: 1\n")
    run = tool("loss=asl", script=tmp_path / "elsewhere/tools/train.py")
    assert run.returncode == 2
    assert "unheard_of" in run.stderr


def test_other_ranks_leave_the_message_of_a_config_error_to_rank_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(console.time, "sleep", waits.append)
    monkeypatch.setattr(console, "log_to_stderr", lambda: None)  # it would change the loggers of other tests
    with pytest.raises(SystemExit) as left, console.exit_on_error():
        raise ConfigError("runner.epochs=0: too few")
    assert waits == [console.RANK_PATIENCE], "time for rank 0 to be heard before torchrun ends every rank"
    assert left.value.code == 2
    assert capsys.readouterr().err == "rank 1: runner.epochs=0: too few\n", "said after all where rank 0 did not fail"
