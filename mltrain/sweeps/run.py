"""Sweep of `-m`: every combination of the given values, through a Hydra launcher.

    check every job -> launch -> a line for each job that starts or ends -> summary, exit code

The folder of a run follows from its config, so repeating the command skips finished runs and resumes others. The
sweep's own folder (hydra.sweep.dir) has a record and, for jobs in other processes, a log of each job.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
from mltrain.config.compose import load, search_path
from mltrain.config.identity import run_folder
from mltrain.config.overrides import Scan, Source, scan_overrides
from mltrain.config.sweep_settings import compose_settings
from mltrain.engine.run_folder import read_result
from mltrain.engine.signals import handled
from mltrain.errors import ConfigError, DataError, Interrupted, MltrainError
from mltrain.sweeps import job as sweep_job
from mltrain.sweeps import launchers
from mltrain.sweeps.job import Work
from mltrain.sweeps.record import ENDED, Check, Record, Sweep, done_by_interrupted_sweep
from mltrain.sweeps.watch import Watch, summary
from mltrain.text import part_of
from mltrain.transcript import typed_words

log = logging.getLogger(__name__)
_IMPORT_ROOT = Path(__file__).resolve().parents[2]


def run_sweep(
    work: Work,
    overrides: list[str],
    source: Source,
    *,
    before: Check | None = None,
    after: Callable[[Path], None],
) -> None:
    """Check every job, run them all, and log a summary.

    Args:
        before: refuses jobs whose runs are of other data than those of now.
        after: called with the sweep's folder if at least two runs are finished and can be compared.

    Raises:
        ConfigError: a job's config is wrong; no job was run.
        DataError: the data have changed since runs of the sweep were trained; no job was run.
        Interrupted: a signal stopped the sweep; running jobs have saved.
        MltrainError: jobs failed; the message names them and their reasons.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "-m under torchrun: every rank would run the whole sweep by itself. Several GPUs per job: start one "
            "torchrun per job in a loop, or on Slurm -m hydra/launcher=slurm hydra.launcher.tasks_per_node=8 "
            "hydra.launcher.gpus_per_node=8. One GPU per job: -m hydra/launcher=ray, without torchrun"
        )
    scan, parsed, settings = _composed(overrides, source)
    launchers.check_installed(settings)
    total, done, rerun_before = _check_jobs(parsed, settings, source)
    checked = before is None or _check_data(before)
    at_once = launchers.jobs_at_once(settings, total)
    sweep = Sweep(
        folder=_new_folder(Path(settings.sweep.dir)),
        cwd=Path.cwd(),
        launcher=launchers.kind_of(settings.launcher),
        host=socket.gethostname(),
        pid=os.getpid(),
        total=total,
        cores=launchers.cores_of_a_job(settings, at_once),
        check=None if checked and total == len(sweep_job.checked) else before,
        started=time.time(),
        typed=tuple(typed_words()["typed"]),
        varied=tuple(o.get_key_element().lstrip("+") for o in parsed if o.is_sweep_override()),
        rerun_before=rerun_before,
    )
    watch = Watch(sweep, before=done)
    arguments = [*scan.overrides, *_own_overrides(source, sweep, at_once)]
    ended: Exception | None = None
    try:
        # The signals come after the launcher, because Ray sets handlers when it starts.
        with _started(settings, sweep), handled(functools.partial(_stop, sweep=sweep)), watch.watching():
            task = functools.partial(sweep_job.run_job, work=work, source=source, sweep=sweep)
            _launch(functools.update_wrapper(task, work), arguments, source)
    except (MltrainError, HydraException, OmegaConfBaseException):
        raise
    except SystemExit:  # a job was stopped in this process
        pass
    except Exception as error:  # a launcher lost a job's process, or Optuna has no figure to compare
        log.debug("the launcher ended early", exc_info=True)
        ended = error
    records = watch.records()
    finished = sum(record.state in ("finished", "before") for record in records)
    if finished >= 2 and all(cfg.logger.report for cfg in sweep_job.checked.values()):
        after(sweep.folder)
    _sum_up(sweep, records, ended)


def planned_jobs(overrides: Sequence[str], source: Source) -> dict[str, DictConfig]:
    """Return the checked config of every job of a sweep, by the values in which the jobs differ; nothing is run.

    If the sweeper chooses values as it goes, there is one job, with the first value of each range.

    Raises:
        ConfigError: a job's config is wrong.
    """
    _, parsed, settings = _composed(overrides, source)
    _check_jobs(parsed, settings, source)
    varied = {o.get_key_element().lstrip("+") for o in parsed if o.is_sweep_override()}
    return {
        " ".join(word for word in job.split() if word.partition("=")[0] in varied) or job: cfg
        for job, cfg in sweep_job.checked.items()
    }


def _composed(overrides: Sequence[str], source: Source) -> tuple[Scan, list[Override], DictConfig]:
    """Return the overrides, checked and parsed, and Hydra's settings for their sweep. Raises ConfigError."""
    scan = scan_overrides(overrides, source, sweep=True)
    if scan.problems:
        raise ConfigError(message(scan.problems))
    parsed = OverridesParser.create().parse_overrides(scan.overrides)
    return scan, parsed, compose_settings([o.input_line or "" for o in parsed if not o.is_sweep_override()], source)


def _not_for_all(parsed: list[Override]) -> str:
    """Say that an option of a group holds for every option of the group that the sweep tries; empty if none does."""
    varied = {o.key_or_group for o in parsed if o.is_sweep_override()}
    fixed = [(o.input_line or "").lstrip("+") for o in parsed if o.key_or_group.partition(".")[0] in varied]
    fixed = [text for text in fixed if "." in text.partition("=")[0]]
    if not fixed:
        return ""
    group = fixed[0].partition(".")[0]
    return (
        f"\n{', '.join(fixed)} would hold for every job, so each {group} must have it. Sweep the others by themselves, "
        f"e.g. without {fixed[0]}; `mltrain results` shows both sweeps in one table"
    )


def _check_jobs(
    parsed: list[Override], settings: DictConfig, source: Source
) -> tuple[int | None, int, tuple[str, ...]]:
    """Check the config of every job; return the number of jobs, of those finished before, and `Sweep.rerun_before`.

    If the sweeper chooses values as it goes, only the first value of each range is checked. The number of jobs is then
    that which the sweeper is configured to try, or None.
    """
    own = [override for override in parsed if not override.is_hydra_override()]
    grid = str(settings.sweeper._target_).endswith(".BasicSweeper")
    try:
        jobs = [list(job) for batch in BasicSweeper.split_arguments(own, None) for job in batch] if grid else None
    except HydraException as error:
        raise ConfigError(
            f"{error}: a grid needs values, e.g. optimizer.lr=1e-4,1e-3; intervals are for hydra/sweeper=optuna"
        ) from error
    sweep_job.checked.clear()
    for job in jobs if jobs is not None else [[_first(override) for override in own]]:
        try:
            cfg = load(job, source=source)
        except ConfigError as error:
            words = " ".join(text.lstrip("+") for text in job)
            raise ConfigError(f"nothing was run: the job {words} has {error}{_not_for_all(parsed)}") from error
        sweep_job.checked[" ".join(text.lstrip("+") for text in job)] = cfg
    if jobs is None:
        return settings.sweeper.get("n_trials"), 0, ()
    again = [job for job, cfg in sweep_job.checked.items() if cfg.rerun]
    rerun_before = done_by_interrupted_sweep(Path(settings.sweep.dir).parent, again) if again else ()
    skipped = [cfg for job, cfg in sweep_job.checked.items() if not cfg.rerun or job in rerun_before]
    return len(jobs), sum(read_result(run_folder(cfg)) is not None for cfg in skipped), rerun_before


def _check_data(check: Check) -> bool:
    """Refuse the sweep if runs of its jobs are of other data; return whether all could be checked."""
    try:
        return check(list(sweep_job.checked.values()))
    except DataError as error:
        raise DataError(f"nothing was run: {error}") from error


def _first(override: Override) -> str:
    """Return the override with the first value that a search may choose."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return f"{override.get_key_element()}={value.start}"
    if isinstance(value, ChoiceSweep | RangeSweep):
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    return override.input_line or ""


def _new_folder(folder: Path) -> Path:
    """Create the folder and return it; its name gets a number if another sweep began in the same second."""
    folder = folder.absolute()
    for number in range(1, 1000):
        made = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            made.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"paths.runs: the sweep's folder {made} cannot be created: {error}") from error
        return made
    raise ConfigError(f"hydra.sweep.dir={folder}: this folder and a thousand numbered ones exist")


def _own_overrides(source: Source, sweep: Sweep, at_once: int | None) -> list[str]:
    """Return the overrides that tell Hydra the sweep's folder, further config folders, and the jobs at once."""
    quoted = str(sweep.folder).replace("\\", "\\\\").replace("'", "\\'")
    overrides = [f"hydra.sweep.dir='{quoted}'"]
    overrides += search_path(source)
    if sweep.launcher == "joblib":
        overrides.append(f"hydra.launcher.n_jobs={at_once}")
    return overrides


def _launch(task: Any, arguments: list[str], source: Source) -> None:
    """Let Hydra run the task for every job; it takes its arguments from sys.argv."""
    argv, full, paths = sys.argv, os.environ.get("HYDRA_FULL_ERROR"), os.environ.get("PYTHONPATH")
    sys.argv = [argv[0], "-m", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints an error and exits
    os.environ["PYTHONPATH"] = _import_paths()
    try:
        hydra_main(version_base="1.3", config_path=str(source.folder), config_name=source.name)(task)()
    finally:
        sys.argv = argv
        for name, value in (("HYDRA_FULL_ERROR", full), ("PYTHONPATH", paths)):
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _import_paths() -> str:
    """Return a PYTHONPATH with which jobs in other processes import this copy of mltrain."""
    return os.pathsep.join(filter(None, [str(_IMPORT_ROOT), os.environ.get("PYTHONPATH")]))


@contextmanager
def _started(settings: DictConfig, sweep: Sweep) -> Iterator[None]:
    """Quieten the plugins of Hydra, and start and stop Ray if it is the launcher."""
    logging.getLogger("submitit").setLevel(logging.WARNING)
    if "optuna" in str(settings.sweeper._target_):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper").setLevel(logging.ERROR)  # the summary has them
    if sweep.launcher != "ray":
        yield
        return
    launchers.start_ray(settings.launcher, _import_paths())
    try:
        yield
    finally:
        launchers.stop_ray()


def _stop(number: int, frame: Any, *, sweep: Sweep) -> None:
    """Handle a signal: let running jobs save and end; a second SIGINT exits at once."""
    if sweep.stopped_by() is None:
        sweep.request_stop(number)
        log.warning("%s: the sweep ends as soon as running jobs have saved", signal.Signals(number).name)
    elif number == signal.SIGINT:
        raise KeyboardInterrupt


def _sum_up(sweep: Sweep, records: list[Record], ended: Exception | None) -> None:
    """Log the summary, and raise an error if the sweep was stopped, jobs failed, or the launcher ended early."""
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
        raise MltrainError(f"{part_of(len(failed), sweep.total or len(records), 'job')} failed: {names}{more}")
    if ended is not None and lost:
        raise MltrainError(
            f"the launcher ended early, {type(ended).__name__}: {ended}\njobs without an end: "
            f"{'; '.join(record.label for record in lost)}. Repeat the command to go on"
        ) from ended
    if ended is not None:
        raise ended
