"""`-m`: every combination of the values given, through a Hydra launcher, and how it went.

    check every job -> launch -> a line for each job that starts or ends -> summary, exit code

Each run has a folder that follows from its config, so repeating the command skips what is finished and resumes the
rest. A sweep's own folder (hydra.sweep.dir) holds a record and, for jobs in other processes, a log of each job.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import main as hydra_main
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mltrain.config.check import message
from mltrain.config.compose import Source, compose_settings, load, scan_overrides
from mltrain.config.identity import run_folder
from mltrain.errors import ConfigError, Interrupted, MltrainError
from mltrain.sweeps import job as sweep_job
from mltrain.sweeps import launchers
from mltrain.sweeps.job import SIGNALS, Work
from mltrain.sweeps.record import ENDED, Record, Sweep
from mltrain.sweeps.watch import Watch, summary

log = logging.getLogger(__name__)
_IMPORT_ROOT = Path(__file__).resolve().parents[2]


def run_sweep(work: Work, overrides: list[str], source: Source, *, after: Callable[[Path], None]) -> None:
    """Check every job, run them all, and sum up.

    `after` is called with the sweep's folder when there are at least two finished runs to compare.

    Raises:
        ConfigError: a job's config is wrong; none was run.
        Interrupted: a signal stopped the sweep; what ran has saved.
        MltrainError: jobs failed, named with their reasons.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "-m under torchrun: every rank would run the whole sweep by itself. Several GPUs a job: start one torchrun "
            "per job in a loop, or on Slurm -m hydra/launcher=slurm hydra.launcher.tasks_per_node=8 "
            "hydra.launcher.gpus_per_node=8. One GPU a job: -m hydra/launcher=ray, without torchrun"
        )
    scan = scan_overrides(overrides, source, sweep=True)
    if scan.problems:
        raise ConfigError(message(scan.problems))
    parsed = _parsed(scan.overrides)
    settings = compose_settings([o.input_line or "" for o in parsed if not o.is_sweep_override()], source)
    launchers.check_installed(settings)
    jobs, total, before = _checked_jobs(parsed, settings, source)
    at_once = launchers.jobs_at_once(settings, total)
    sweep = Sweep(
        folder=_new_folder(Path(settings.sweep.dir)),
        cwd=Path.cwd(),
        launcher=launchers.kind_of(settings.launcher),
        host=socket.gethostname(),
        pid=os.getpid(),
        total=total,
        cores=launchers.cores_of_a_job(settings, at_once),
        varied=tuple(o.get_key_element().lstrip("+") for o in parsed if o.is_sweep_override()),
    )
    watch = Watch(sweep, before=before)
    words = [*scan.overrides, *_own_overrides(settings, source, sweep, at_once)]
    ended: Exception | None = None
    try:
        with _engine(settings, sweep), _signals(sweep), watch:  # Ray's start takes the signals for itself
            _launch(functools.partial(sweep_job.run_job, work=work, source=source, sweep=sweep), work, words, source)
    except (MltrainError, HydraException, OmegaConfBaseException):
        raise
    except SystemExit:  # of a job that was stopped in this process
        pass
    except Exception as error:  # an engine lost a job's process, or Optuna has no figure to compare
        log.debug("the launcher ended early", exc_info=True)
        ended = error
    records = watch.records()
    finished = sum(record.state in ("finished", "before") for record in records)
    if finished >= 2 and all(cfg.logger.report for cfg in sweep_job.checked.values()):
        after(sweep.folder)
    _sum_up(sweep, records, jobs, ended)


def _parsed(overrides: list[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(overrides)


def _checked_jobs(
    parsed: list[Override], settings: DictConfig, source: Source
) -> tuple[list[list[str]] | None, int | None, int]:
    """The jobs (None where the sweeper decides as it goes), their number, and how many were finished before."""
    own = [override for override in parsed if not override.is_hydra_override()]
    grid = str(settings.sweeper._target_).endswith(".BasicSweeper")
    try:
        jobs = [list(job) for batch in BasicSweeper.split_arguments(own, None) for job in batch] if grid else None
    except HydraException as error:
        raise ConfigError(
            f"{error}: a grid needs values, e.g. optimizer.lr=1e-4,1e-3; intervals are for hydra/sweeper=optuna"
        ) from error
    before = 0
    sweep_job.checked.clear()
    for job in jobs if jobs is not None else [[_first(override) for override in own]]:
        try:
            cfg = load(job, source=source)
        except ConfigError as error:
            raise ConfigError(f"nothing was run: the job {' '.join(job)} has {error}") from error
        sweep_job.checked[" ".join(text.lstrip("+") for text in job)] = cfg
        before += (run_folder(cfg) / "result.json").is_file() and not cfg.rerun
    if jobs is None:
        return None, settings.sweeper.get("n_trials"), 0
    return jobs, len(jobs), before


def _first(override: Override) -> str:
    """The override with the first value that a search may choose."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return f"{override.get_key_element()}={value.start}"
    if isinstance(value, ChoiceSweep | RangeSweep):
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    return override.input_line or ""


def _new_folder(folder: Path) -> Path:
    """The folder, made; numbered where another sweep began in the same second."""
    folder = folder.absolute()
    for number in range(1, 1000):
        made = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            made.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"paths.runs: the sweep's folder {made} cannot be made: {error}") from error
        return made
    raise ConfigError(f"hydra.sweep.dir={folder}: exists, with a thousand like it")


def _own_overrides(settings: DictConfig, source: Source, sweep: Sweep, at_once: int | None) -> list[str]:
    quoted = str(sweep.folder).replace("\\", "\\\\").replace("'", "\\'")
    words = [f"hydra.sweep.dir='{quoted}'"]
    if source.extra:
        words.append(f"hydra.searchpath=[{','.join(f'file://{folder.resolve()}' for folder in source.extra)}]")
    if sweep.launcher == "joblib":
        words.append(f"hydra.launcher.n_jobs={at_once}")
    return words


def _launch(task: Any, work: Work, words: list[str], source: Source) -> None:
    argv, full, paths = sys.argv, os.environ.get("HYDRA_FULL_ERROR"), os.environ.get("PYTHONPATH")
    sys.argv = [argv[0], "-m", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints and exits before the error gets here
    os.environ["PYTHONPATH"] = _import_paths()
    try:
        functools.update_wrapper(task, work)
        hydra_main(version_base="1.3", config_path=str(source.folder), config_name=source.name)(task)()
    finally:
        sys.argv = argv
        for name, value in (("HYDRA_FULL_ERROR", full), ("PYTHONPATH", paths)):
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _import_paths() -> str:
    """PYTHONPATH of jobs in other processes: they import this very copy of mltrain."""
    return os.pathsep.join(filter(None, [str(_IMPORT_ROOT), os.environ.get("PYTHONPATH")]))


@contextmanager
def _engine(settings: DictConfig, sweep: Sweep) -> Iterator[None]:
    logging.getLogger("submitit").setLevel(logging.WARNING)
    if "optuna" in str(settings.sweeper._target_):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper").setLevel(logging.ERROR)  # failed jobs are told of here
    if sweep.launcher != "ray":
        yield
        return
    launchers.start_ray(settings.launcher, _import_paths())
    try:
        yield
    finally:
        launchers.stop_ray()


@contextmanager
def _signals(sweep: Sweep) -> Iterator[None]:
    """SIGTERM and SIGINT let the jobs that run save and end; a second SIGINT leaves at once."""

    def stop(number: int, frame: Any) -> None:
        if sweep.stopped_by() is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        sweep.request_stop(number)
        log.warning("%s: the sweep ends as soon as running jobs have saved", signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _sum_up(sweep: Sweep, records: list[Record], jobs: list[list[str]] | None, ended: Exception | None) -> None:
    log.info("%s", summary(sweep, records))
    failed = [record for record in records if record.state == "failed"]
    signum = sweep.stopped_by()
    stopped = [record for record in records if record.state == "interrupted"]
    if signum is None and stopped:
        signum = stopped[0].exit_code - 128
    if signum is not None:
        raise Interrupted("the sweep was stopped; repeat the command to go on with it", signum)
    lost = [record for record in records if record.state not in ENDED]
    if failed:
        names = "; ".join(record.label for record in failed[:5])
        more = f"; and {len(failed) - 5} more, named above" if len(failed) > 5 else ""
        raise MltrainError(f"{len(failed)} of {sweep.total or len(records)} jobs failed: {names}{more}")
    if ended is not None and lost:
        raise MltrainError(
            f"the launcher ended early, {type(ended).__name__}: {ended}\njobs without an end: "
            f"{'; '.join(record.label for record in lost)}. Repeat the command to go on"
        ) from ended
    if ended is not None:
        raise ended
