"""One job of a sweep, in the process that the launcher chooses, and its record in the sweep's folder.

The main process learns from the records alone how jobs went, so every launcher gives the same summary. A job in a
process of its own writes its output to a log beside the record. It ends, as after a signal, when the sweep's `stop`
file appears, which the jobs themselves write if the main process was killed: the runner saves first.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig

from mltrain.config.compose import load
from mltrain.config.identity import run_folder
from mltrain.config.overrides import Source
from mltrain.console import REMEDY, advice, log_to_stderr, rank
from mltrain.engine.run_folder import REPORT, read_result
from mltrain.engine.signals import handled, in_main_thread
from mltrain.errors import Interrupted, MltrainError
from mltrain.sweeps.record import Check, Record, Sweep
from mltrain.transcript import recording_job

log = logging.getLogger(__name__)

Work = Callable[[Any], Any]  # takes the checked DictConfig of a job

STOP_SECONDS = 0.5  # between two looks for the stop file
PREEMPTION_SECONDS = 3.0  # Slurm sends a second signal to a preempted job within this time

# Two variables of the main process. They are not part of a `Sweep`, because that travels to other processes.
checked: dict[str, Any] = {}  # configs that are checked already, by their overrides
changed: list[Callable[[], None]] = []  # called when a job in this process has written its record


def run_job(cfg: Any, *, work: Work, source: Source, sweep: Sweep) -> float | None:
    """Run a job as the task of Hydra, write its record, and return its figure or None.

    A job that is stopped in the main process exits, so that no other job starts.
    """
    settings = HydraConfig.get()
    number, overrides = int(settings.job.num), [text.lstrip("+") for text in settings.overrides.task]
    if sweep.stopped_by() is not None:
        return None
    varied = [text for text in overrides if text.partition("=")[0] in sweep.varied]
    record = Record(number, " ".join(overrides), " ".join(varied or overrides), "running", time.time())
    with ExitStack() as stack:
        if not sweep.here:
            stack.enter_context(_own_process(sweep, number))
        stack.enter_context(recording_job(sweep.typed, settings.overrides.task))
        limit = stack.enter_context(_stoppable(sweep))
        _note(sweep, record)
        try:
            cfg = checked.get(record.overrides) or load(overrides, source=source)
            if record.overrides in sweep.rerun_before:
                cfg = cfg.copy()
                cfg.rerun = False
            _run(record, cfg, work, sweep.check)
        except (Interrupted, KeyboardInterrupt) as error:
            code = error.exit_code if isinstance(error, Interrupted) else 130
            record.end_with("interrupted", str(error) or "interrupted", code)
        except MltrainError as error:
            log.error("%s", error)
            record.end_with("failed", str(error), error.exit_code)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in REMEDY:  # a full disk, say
                log.error("%s", advice(error))
                record.end_with("failed", advice(error), MltrainError.exit_code)
            else:
                log.exception("job %d: %s", number + 1, record.label)
                record.end_with("failed", f"{type(error).__name__}: {error}", 1)
        limit.over = True
        record.seconds = round(time.time() - record.started, 2)
        if record.state == "interrupted":
            _interrupted(sweep, record, limit)
        _note(sweep, record)
    _free_memory()
    return record.value


def _run(record: Record, cfg: Any, work: Work, check: Check | None) -> None:
    """Do the work, unless it was done before, and note folder and figure."""
    folder = run_folder(cfg)
    record.folder = str(folder)
    result = None if cfg.rerun else read_result(folder)
    if result is not None and check is not None:
        check([cfg])
    state = "finished" if result is None else "before"
    if result is None or (cfg.logger.report and not (folder / REPORT).exists()):
        result = work(cfg)
    record.state = state
    best = result.get("best") if isinstance(result, dict) else None
    if best:
        record.figure = best.get("by", "map")
        record.value = best[record.figure]


def _interrupted(sweep: Sweep, record: Record, limit: _Limit) -> None:
    """Queue a job again that has reached its time limit; else stop the sweep with the job."""
    log.warning("%s", record.error)
    end = time.monotonic() + PREEMPTION_SECONDS
    while sweep.launcher == "slurm" and not limit.reached and sweep.stopped_by() is None and time.monotonic() < end:
        time.sleep(0.1)  # a preempted job gets SIGTERM before the signal that sets limit.reached
    if limit.reached and sweep.stopped_by() is None:
        record.state = "waiting"
        _note(sweep, record)
        try:
            limit.requeue()  # exits if the queue takes the job back
        except Exception as error:
            log.exception("not queued again")
            record.state, record.error = "interrupted", f"time limit reached, and not queued again: {error}"
        return
    if sweep.launcher != "slurm":  # Slurm stops jobs one by one
        sweep.request_stop(record.exit_code - 128)
    if sweep.here:
        _note(sweep, record)
        sys.exit(record.exit_code)


def _note(sweep: Sweep, record: Record) -> None:
    """Write the record, from the first rank of a job only."""
    if rank() == 0 or sweep.here:
        sweep.write(record)
    if sweep.here:
        for listener in changed:
            listener()


def _free_memory() -> None:
    """Free the memory of the job for the next one in this process."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class _Limit:
    """Slurm's warning that the job's time is over; submitit then queues the job again."""

    def __init__(self, answer: Any) -> None:
        self.reached = False
        self.over = False
        """the work has ended, so late signals are ignored"""
        self._answer = answer if callable(answer) else None
        if self._answer is not None:
            signal.signal(signal.SIGUSR2, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        self.reached = True
        os.kill(os.getpid(), signal.SIGTERM)  # the runner saves and ends

    def requeue(self) -> None:
        assert self._answer is not None
        self._answer(signal.SIGUSR2, None)


@contextmanager
def _stoppable(sweep: Sweep) -> Iterator[_Limit]:
    """Let a signal, or the stop file, end the job: at once outside training; in training the runner saves first."""
    if not in_main_thread():
        yield _Limit(None)
        return

    def stop(number: int, frame: Any) -> None:
        if not limit.over:
            raise Interrupted(f"stopped by {signal.Signals(number).name} outside training", number)

    limit = _Limit(signal.getsignal(signal.SIGUSR2) if os.environ.get("SUBMITIT_EXECUTOR") else None)
    ended = threading.Event()
    if not sweep.here:
        threading.Thread(target=_obey, args=(sweep, ended), daemon=True).start()
    # joblib kills all jobs when one of its processes dies, so none may die of a signal between two jobs.
    after = signal.SIG_IGN if sweep.launcher == "joblib" and not sweep.here else None
    with handled(stop, after=after):
        try:
            yield limit
        finally:
            ended.set()


def _obey(sweep: Sweep, ended: threading.Event) -> None:
    """Send this process SIGTERM when the sweep is asked to stop, or when its main process was killed."""
    while not ended.wait(STOP_SECONDS):
        if sweep.is_abandoned():
            sweep.request_stop(signal.SIGTERM)
        if sweep.stopped_by() is not None:
            os.kill(os.getpid(), signal.SIGTERM)
            return


@contextmanager
def _own_process(sweep: Sweep, number: int) -> Iterator[None]:
    """Prepare a process other than the main one for a job: folder, ranks, cores, and a log of all output."""
    if not (sweep.cwd.is_dir() and sweep.folder.is_dir()):
        host = socket.gethostname()
        raise MltrainError(f"{sweep.folder}: does not exist on {host}; a sweep needs folders that all machines share")
    os.chdir(sweep.cwd)
    _join_ranks()
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method(None, force=True)  # data workers must start as in a run without a sweep
    if sweep.cores is not None:
        os.environ["MLTRAIN_CORES"] = str(sweep.cores)
        os.environ.setdefault("OMP_NUM_THREADS", str(sweep.cores))
    name = sweep.record_file(number).stem + (f"-rank{rank()}" if rank() else "")
    with (sweep.folder / f"{name}.log").open("ab") as file, _redirected_to(file.fileno()):
        log_to_stderr()
        yield


@contextmanager
def _redirected_to(file: int) -> Iterator[None]:
    """Send standard output and standard error, those of libraries in C and of child processes too, to an open file."""
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, _ in kept:
            os.dup2(file, stream)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in kept:
            os.dup2(copy, stream)
            os.close(copy)


def _join_ranks() -> None:
    """Set the variables that torchrun would set for the processes of one submitit job."""
    if not os.environ.get("SUBMITIT_EXECUTOR"):
        return
    import submitit

    if submitit.JobEnvironment().num_tasks > 1:
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
