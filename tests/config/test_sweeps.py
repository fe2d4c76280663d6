"""Sweeps through every launcher, with work that needs no torch: how jobs end, what is recorded, said and returned."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mltrain.config.overrides import CONFIGS, Source
from mltrain.config.sweep_settings import compose_settings
from mltrain.errors import ConfigError
from mltrain.sweeps import launchers
from mltrain.sweeps.job import Record, Sweep
from mltrain.sweeps.watch import Watch, summary

ROOT = CONFIGS.parent

SCRIPT = """
import json, os, sys, time
from pathlib import Path
from mltrain import cli
from mltrain.console import exit_on_error
from mltrain.config.identity import run_folder
from mltrain.engine.signals import StopSignal
from mltrain.errors import DataError, Interrupted

def work(cfg):
    folder = run_folder(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    steps = folder / "steps"
    done = int(steps.read_text()) if steps.exists() else 0
    print("starts at", done, flush=True)
    with StopSignal() as stop:
        while done < cfg.runner.max_steps:
            done += 1
            time.sleep(0.01)
            if stop.signum is not None:
                time.sleep(0.3)
                steps.write_text(str(done))
                raise Interrupted(f"stopped after step {done}", stop.signum)
    if cfg.seed == 7:
        raise DataError("no such file: seven")
    if cfg.seed == 8:
        raise KeyError("eight")
    if cfg.seed == 9:
        raise OSError(28, "No space left on device", "nine.pt")
    names = ("MLTRAIN_CORES", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "MASTER_PORT")
    variables = {name: os.environ.get(name) for name in names}
    score = 50.0 + cfg.seed - 1000 * (cfg.optimizer.lr - 0.02) ** 2
    if int(variables["RANK"] or 0) == 0:
        result = {"best": {"by": "map", "map": score, "weights": "val"}, "steps": done, **variables}
        (folder / "result.json").write_text(json.dumps(result))
        return result

if __name__ == "__main__":
    with exit_on_error():
        cli.execute(cli.Command(work, "about this tool", "config", after_sweep=lambda folder: None), sys.argv[1:])
"""

# A cluster of one machine: `sbatch` runs the tasks of an array at once, in the background.
SLURM = {
    "sbatch": """
import os, re, subprocess, sys
text = open(sys.argv[1]).read()
open(os.environ["FAKE_SLURM"] + "/submitted", "a").write(text)
array = re.search(r"--array=0-(\\d+)", text)
for task in range(int(array.group(1)) + 1 if array else 1):
    names = {"SLURM_JOB_ID": f"42{task}", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    names |= {"SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1"}
    names |= {"SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": str(task)} if array else {"SLURM_JOB_ID": "42"}
    out = open(os.environ["FAKE_SLURM"] + f"/{task}.out", "w")
    subprocess.Popen(["bash", sys.argv[1]], env=os.environ | names, stdout=out, stderr=out, start_new_session=True)
print("Submitted batch job 42")
""",
    "srun": """
import os, sys
rest = [word for word in sys.argv[1:]]
while rest[0].startswith("--"):
    rest = rest[1:] if "=" in rest[0] or rest[0] == "--unbuffered" else rest[2:]
os.execvp(rest[0], rest)
""",
    "sacct": "print('JobID|State|NodeList')",
    "scontrol": "",
}

LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
    "slurm": ["hydra/launcher=slurm", "hydra.launcher.partition=long"],
    "ray": ["hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0", "hydra.launcher.ray.remote.num_cpus=1"],
}
SOME = [name if name in ("basic", "joblib") else pytest.param(name, marks=pytest.mark.slow) for name in LAUNCHERS]
NEEDS = {"joblib": "joblib", "submitit_local": "submitit", "slurm": "submitit", "ray": "ray"}


class Program:
    """The script in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "tool.py"
        self.script.write_text(SCRIPT)
        (folder / "bin").mkdir()
        for name, code in SLURM.items():
            file = folder / "bin" / name
            file.write_text(f"#!{sys.executable}\n{code}")
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "FAKE_SLURM": str(folder),
            "RAY_AUTH_MODE": "disabled",
        }
        self.env.pop("OMP_NUM_THREADS", None)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.script), "-m", *words],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        """Run the sweep to its end, and return its exit code and output."""
        with self.start(*words) as process:
            said = process.communicate(timeout=120)[0]
            return process.returncode, said

    @contextmanager
    def running(self, *words: str, jobs: int = 1) -> Iterator[subprocess.Popen[str]]:
        """Start a sweep and wait until `jobs` of its jobs are at work."""
        with self.start(*words) as process:
            try:
                end = time.monotonic() + 60
                while sum("starts at" in text for text in self.logs()) < jobs:
                    assert process.poll() is None, process.communicate()[0]
                    assert time.monotonic() < end, "no job began"
                    time.sleep(0.1)
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def logs(self) -> list[str]:
        return [file.read_text() for file in self.folder.glob("runs/multirun/*/job-*.log")]

    def results(self) -> dict[int, dict[str, Any]]:
        """By seed, from the names of the run folders' configs in the records."""
        found: dict[int, dict[str, Any]] = {}
        for record in self.records():
            file = self.folder / (record["folder"] or "") / "result.json"
            if record["folder"] and file.is_file():
                found[int(re.search(r"seed=(\d+)", record["overrides"])[1])] = json.loads(file.read_text())  # type: ignore[index]
        return found

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the jobs of the latest sweep."""
        folder = max(self.folder.glob("runs/multirun/*"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(file.read_text()) for file in sorted(folder.glob("job-*.json"))]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def launcher(name: str) -> list[str]:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
        pytest.importorskip(launchers_module(name))
    return LAUNCHERS[name]


def launchers_module(name: str) -> str:
    package = {"submitit_local": "submitit", "slurm": "submitit"}.get(name, name)
    return f"hydra_plugins.hydra_{package}_launcher"


@pytest.mark.parametrize("name", SOME)
def test_failing_jobs_are_named_with_their_reasons_the_others_run_and_the_exit_code_says_so(
    program: Program, name: str
) -> None:
    words = [*launcher(name), "runner.max_steps=3", "seed=0,7,8,9,3"]
    code, said = program.run(*words)
    assert code == 2, said
    assert {seed: result["steps"] for seed, result in program.results().items()} == {0: 3, 3: 3}
    assert [record["state"] for record in program.records()] == ["finished", *3 * ["failed"], "finished"]
    assert "sweep: 2 finished, 3 failed" in said
    assert "3 of 5 jobs failed: seed=7; seed=8; seed=9" in said
    assert "failed: seed=9\n  [Errno 28] No space left on device: 'nine.pt': free some space" in said
    assert said.count("Traceback") == (name == "basic"), "a full disk has none"
    assert "failed: seed=7\n  no such file: seven" in said
    assert "failed: seed=8\n  KeyError: 'eight'" in said
    assert re.search(r"best mAP 52\.9\d: seed=3", said), "of the finished ones"
    for number, seed in enumerate((0, 7, 8, 9, 3), 1):
        assert f"job {number} of 5: seed={seed}\n" in said
    if name == "joblib":
        share = max(1, launchers._cores() // 2)
        assert {result["MLTRAIN_CORES"] for result in program.results().values()} == {str(share)}
        assert {int(result["OMP_NUM_THREADS"]) <= share for result in program.results().values()} == {True}
    if name != "basic":
        assert "Traceback" not in said, "that is in the job's log"
        logs = program.logs()
        assert sum("Traceback" in text and "KeyError" in text for text in logs) == 1
        assert len(logs) == 5


@pytest.mark.parametrize("name", [pytest.param("basic", marks=pytest.mark.slow), *SOME[1:]])
def test_a_signal_ends_the_sweep_and_the_command_repeated_goes_on(program: Program, name: str) -> None:
    seeds = range(2 if name == "basic" else 3)
    words = [*launcher(name), "runner.max_steps=300", f"seed={','.join(map(str, seeds))}"]
    if name == "basic":
        with program.start(*words) as process:
            assert process.stdout is not None
            while "starts at" not in process.stdout.readline():
                pass
            time.sleep(0.3)
            process.terminate()
            said = process.communicate(timeout=60)[0]
    else:
        with program.running(*words) as process:
            process.terminate()
            said = process.communicate(timeout=60)[0]
    assert process.returncode == 143, said
    assert "repeat the command to go on" in said
    states = [record["state"] for record in program.records()]
    assert "interrupted" in states
    assert "finished" not in states, said
    steps = [int(file.read_text()) for file in program.folder.glob("runs/shapes/*/*/steps")]
    assert steps
    assert all(0 < number < 300 for number in steps)
    code, said = program.run(*words)
    assert code == 0, said
    assert {seed: result["steps"] for seed, result in program.results().items()} == dict.fromkeys(seeds, 300)
    begun = said if name == "basic" else "".join(program.logs())
    assert all(f"starts at {number}" in begun for number in steps), "from where they were stopped"
    if name == "basic":
        code, said = program.run(*words)
        assert code == 0
        assert "2 jobs, 2 of them finished before" in said
        assert "sweep: 2 finished before" in said


@pytest.mark.slow
def test_a_rerun_that_was_stopped_runs_again_only_what_it_had_not(program: Program) -> None:
    words = ["seed=0,1", "runner.max_steps=2", "rerun=true", "logger.report=false"]

    def begun(*more: str) -> tuple[int, str]:
        code, said = program.run(*words, *more)
        assert code == 0, said
        return said.count("starts at"), said

    assert begun()[0] == 2
    for state in ("interrupted", "running"):  # by a signal, by a kill
        file = max(program.folder.glob("runs/multirun/*/job-0001.json"), key=lambda path: path.stat().st_mtime_ns)
        file.write_text(json.dumps({**json.loads(file.read_text()), "state": state}))
        count, said = begun()
        assert count == 1 and "2 jobs, 1 of them finished before" in said and "1 finished before, 1 finished" in said
    assert begun()[0] == 2, "a whole rerun runs again"


def test_an_interrupt_from_the_terminal_reaches_every_process_and_all_of_them_save(program: Program) -> None:
    with program.running(*launcher("joblib"), "runner.max_steps=500", "seed=0,1,2", jobs=2) as process:
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert [record["state"] for record in program.records()] == ["interrupted", "interrupted"], "the third never began"
    assert len(list(program.folder.glob("runs/shapes/*/*/steps"))) == 2
    assert "sweep: 2 interrupted, 1 not started" in said
    assert "Traceback" not in said


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
    return [int(word) for word in found if "LokyProcess" in Path(f"/proc/{word}/cmdline").read_text("utf-8")]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found by /proc")
def test_a_signal_to_one_job_stops_the_sweep(program: Program) -> None:
    with program.running(*launcher("joblib"), "runner.max_steps=500", "seed=0,1,2", jobs=2) as process:
        os.kill(children(process.pid)[0], signal.SIGTERM)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 143, said
    assert [record["state"] for record in program.records()] == ["interrupted", "interrupted"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found by /proc")
def test_a_job_whose_process_is_killed_ends_the_sweep_with_a_message(program: Program) -> None:
    words = [*launcher("joblib"), "runner.max_steps=500", "seed=0,1,2"]
    with program.running(*words, jobs=2) as process:
        os.kill(children(process.pid)[0], signal.SIGKILL)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 2, said
    assert "the launcher ended early" in said
    assert "jobs without an end: seed=0; seed=1. Repeat the command" in said
    assert "sweep: 2 cut off, 1 not started" in said


@pytest.mark.slow
def test_several_processes_of_a_submitit_job_are_the_ranks_of_one_run(program: Program) -> None:
    code, said = program.run(
        *launcher("submitit_local"), "hydra.launcher.tasks_per_node=2", "runner.max_steps=1", "seed=0,1"
    )
    assert code == 0, said
    assert [record["state"] for record in program.records()] == ["finished", "finished"], "one record a job"
    for result in program.results().values():
        assert (result["RANK"], result["WORLD_SIZE"]) == ("0", "2")
    assert len({result["MASTER_PORT"] for result in program.results().values()}) == 2


def test_a_slurm_array_asks_for_what_the_config_says(program: Program) -> None:
    words = [*launcher("slurm"), "hydra.launcher.mem_gb=20", "+hydra.launcher.additional_parameters.mail-type=END"]
    code, said = program.run(*words, "runner.max_steps=1", "seed=0,1")
    assert code == 0, said
    asked = (program.folder / "submitted").read_text()
    for flag in ("array=0-1%2", "gpus-per-node=1", "cpus-per-task=8", "partition=long", "mem=20GB", "time=1440"):
        assert f"#SBATCH --{flag}\n" in asked
    for flag in ("signal=USR2@120", "mail-type=END", "job-name=mltrain"):
        assert f"#SBATCH --{flag}\n" in asked


@pytest.mark.slow
def test_a_job_at_its_time_limit_saves_and_goes_on_in_another_process(program: Program) -> None:
    # submitit sends its signal 30 s before the limit.
    words = [*launcher("submitit_local"), "hydra.launcher.timeout_min=1", "runner.max_steps=4000", "seed=0"]
    code, said = program.run(*words)
    assert code == 0, said
    log = "".join(program.logs())
    assert log.count("starts at") == 2
    assert "waiting in the queue" in said
    assert program.results()[0]["steps"] == 4000


@pytest.mark.slow
def test_a_job_that_no_machine_has_room_for_is_refused(program: Program) -> None:
    code, said = program.run(*launcher("ray"), "hydra.launcher.ray.remote.num_gpus=99", "seed=0,1")
    assert code == 2
    assert "hydra.launcher.ray.remote.num_gpus=99: this machine has" in said
    assert not program.records()


@pytest.mark.slow
def test_optuna_searches_a_failing_trial_does_not_end_it_and_the_command_repeated_goes_on(program: Program) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "runner.max_steps=1"]
    search = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
    code, said = program.run(*words, search, "seed=choice(1,7)")
    assert code == 2, said
    assert {record["state"] for record in program.records()} == {"finished", "failed"}, "seed=7 is among the four"
    assert "job 4 of 4: optimizer.lr=" in said
    best = max(record["value"] for record in program.records() if record["value"] is not None)
    assert f"best mAP {best:.2f}: optimizer.lr=" in said
    first = [record["overrides"] for record in program.records()]
    code, said = program.run(*words, search, "seed=choice(1,7)")
    assert [record["overrides"] for record in program.records()] == first, "the same choices"
    assert {record["state"] for record in program.records()} == {"before", "failed"}
    found = next(program.folder.glob("runs/multirun/*/optimization_results.yaml")).read_text()
    assert f"best_value: {best}" in found


@pytest.mark.slow
def test_optuna_says_so_when_every_trial_failed(program: Program) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    code, said = program.run(
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "runner.max_steps=1",
        "seed=7",
        "optimizer.lr=choice(0.1,0.2)",
    )
    assert code == 2
    assert "2 of 2 jobs failed" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra/launcher=joblibb", "seed=0,1"], "joblib"),
        (["hydra/launcher=joblib", "hydra.launcher.n_job=2", "seed=0,1"], "hydra.launcher.n_job"),
        (["optimizer.lr=interval(0,1)"], "a grid needs values"),
        (["hydra/sweeper=optuna", "optimizer.lrr=interval(0,1)"], "did you mean optimizer.lr?"),
    ],
)
def test_mistakes_in_a_sweep_are_messages_before_anything_runs(
    program: Program, words: list[str], message: str
) -> None:
    if "joblib" in words[0]:
        launcher("joblib")
    code, said = program.run(*words)
    assert code == 2, said
    assert message in said
    assert "Traceback" not in said
    assert not list(program.folder.glob("runs/multirun/*/*"))


@pytest.mark.parametrize("target", launchers.PLUGINS)
def test_a_plugin_that_is_not_installed_is_named_with_the_command_that_installs_it(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "_is_installed", lambda module: False)
    group, option = {
        "hydra_plugins.hydra_joblib_launcher": ("launcher", "joblib"),
        "hydra_plugins.hydra_submitit_launcher": ("launcher", "slurm"),
        "hydra_plugins.hydra_ray_launcher": ("launcher", "ray"),
        "hydra_plugins.hydra_optuna_sweeper": ("sweeper", "optuna"),
    }[target]
    settings = compose_settings([f"hydra/{group}={option}"], Source())
    extra = launchers.PLUGINS[target][1]
    message = rf"hydra/{group}={option} needs .*pip install 'mltrain-vision\[{extra}\]'"
    with pytest.raises(ConfigError, match=message):
        launchers.check_installed(settings)
    launchers.check_installed(compose_settings([], Source()))


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("hydra/*/*.yaml")), ids=lambda file: file.stem)
def test_every_launcher_and_sweeper_config_composes_with_its_plugin_present_or_not(file: Path) -> None:
    settings = compose_settings([f"hydra/{file.parent.name}={file.stem}"], Source())
    assert settings[file.parent.name]._target_.startswith(tuple(launchers.PLUGINS))
    if file.parent.name == "launcher":
        assert launchers.kind_of(settings.launcher) == file.stem


def test_a_plugins_own_configs_are_found_too() -> None:
    launcher("slurm")
    settings = compose_settings(["hydra/launcher=submitit_slurm"], Source())
    assert launchers.kind_of(settings.launcher) == "slurm"


@pytest.mark.parametrize(
    ("words", "jobs", "at_once", "cores"),
    [
        ([], 5, 1, None),
        (["hydra/launcher=joblib"], 20, 8, 1),
        (["hydra/launcher=joblib"], 3, 3, 2),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=-2"], 20, 7, 1),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], 20, 2, 4),
        (["hydra/launcher=joblib", "hydra.sweeper.max_batch_size=4"], 20, 4, 2),
        (["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2"], 20, 2, 4),
        (["hydra/launcher=slurm"], 20, None, None),
        (["hydra/launcher=ray", "hydra.launcher.ray.remote.num_cpus=3"], 20, None, 3),
        (["hydra/launcher=joblib", "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=2"], 20, 2, 4),
    ],
)
def test_cores_are_divided_among_the_jobs_that_run_at_once(
    words: list[str], jobs: int, at_once: int | None, cores: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "_cores", lambda: 8)
    settings = compose_settings(words, Source())
    assert launchers.jobs_at_once(settings, jobs) == at_once
    assert launchers.cores_of_a_job(settings, at_once) == cores


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path, tmp_path, "joblib", "host", 1, 6, None, ("seed",))


def record(number: int, state: str, **more: Any) -> Record:
    return Record(number, f"loss=asl seed={number}", f"seed={number}", state, **{"started": time.time(), **more})


def test_each_job_that_ends_is_a_line_with_the_time_left_and_the_best_so_far(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mltrain")
    watch = Watch(sweep, before=1)
    for number in (0, 1):
        sweep.write(record(number, "running", started=time.time() - 60))
    watch.look()
    assert [item.getMessage() for item in caplog.records] == ["\njob 1 of 6: seed=0", "\njob 2 of 6: seed=1"]
    sweep.write(record(0, "finished", seconds=100.0, figure="map", value=40.0))
    sweep.write(record(2, "running"))
    watch.look()
    # Two at a time: 40 s of the one that runs, three of 100 s that wait, one that was finished before.
    line = caplog.messages[2]
    assert line == (
        "job 1 of 6 finished, mAP 40.00  |  1:40  |  1 of 6 done  |  2:50 left  |  best so far mAP 40.00: seed=0"
    )
    sweep.write(record(1, "failed", seconds=9.0, error="no such file\nand more"))
    watch.look()
    assert caplog.messages[-1].startswith("job 2 of 6 failed: no such file  |  0:09  |  2 of 6 done  |  ")
    count = len(caplog.messages)
    watch.look()
    assert len(caplog.messages) == count, "nothing is said twice"


def test_the_summary_counts_every_job_and_names_the_best_and_the_failed(sweep: Sweep) -> None:
    records = [
        record(0, "finished", figure="map", value=40.0, folder="runs/a"),
        record(1, "before", figure="map", value=41.5, folder="runs/b"),
        record(2, "failed", error="CUDA out of memory\nmore"),
        record(3, "running"),
    ]
    (sweep.folder / "job-0002.log").touch()
    assert summary(sweep, records).splitlines() == [
        "",
        "sweep: 1 finished, 1 finished before, 1 failed, 1 cut off, 2 not started",
        "best mAP 41.50: seed=1",
        "  runs/b",
        "failed: seed=2",
        "  CUDA out of memory",
        f"  {sweep.folder / 'job-0002.log'}",
    ]


def test_folds_are_averaged_and_none_is_the_best(sweep: Sweep) -> None:
    sweep = replace(sweep, varied=("loss", "dataset.fold", "seed"))
    values = {"bce": [40.0, 42.0, 44.0], "asl": [41.0, 41.0]}
    cases = [(loss, fold, value) for loss, found in values.items() for fold, value in enumerate(found)]
    records = [
        Record(k, "", f"loss={loss} dataset.fold={fold} seed=0", "finished", 0.0, figure="map", value=value)
        for k, (loss, fold, value) in enumerate(cases)
    ]
    assert summary(sweep, records).splitlines()[2:] == ["best mean mAP 42.00 ± 2.00 over 3 runs: loss=bce"]
    sweep = replace(sweep, varied=("dataset.fold",))
    for one in records:
        one.label = one.label.split()[1]
    assert summary(sweep, records[:3]).splitlines()[2:] == ["mean mAP 42.00 ± 2.00 over 3 runs"]


def test_a_reason_that_jobs_share_is_said_once(sweep: Sweep) -> None:
    records = [record(0, "failed", error="no data"), record(1, "failed", error="no room")]
    records.append(record(2, "failed", error="no data"))
    said = ["failed: seed=0", "failed: seed=2", "  no data", "failed: seed=1", "  no room"]
    assert summary(sweep, records).splitlines()[2:] == said


def test_slurm_without_slurm_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    settings = compose_settings(["hydra/launcher=slurm"], Source())
    monkeypatch.setattr(launchers.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"hydra/launcher=slurm: there is no srun .*hydra/launcher=joblib"):
        launchers.check_installed(settings)
    monkeypatch.setattr(launchers.shutil, "which", lambda name: f"/usr/bin/{name}")
    launchers.check_installed(settings)
