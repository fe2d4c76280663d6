"""One job of a sweep, in whatever process the launcher gave it, and the record it leaves in the sweep's folder.

The main process learns how a job went from its record alone, so it is the same with every launcher. A job in a process
of its own writes its output to a log beside the record, and looks for the sweep's `stop` file, which ends it as a
signal would: the runner saves first.
"""

from __future__ import annotations

import gc
import json
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

from mltrain.config.compose import Source, load
from mltrain.config.identity import run_folder
from mltrain.console import log_to_stderr
from mltrain.errors import Interrupted, MltrainError
from mltrain.sweeps.record import Record, Sweep

log = logging.getLogger(__name__)

Work = Callable[[Any], Any]  # takes the checked DictConfig of a job

STOP_SECONDS = 0.5  # between two looks for it
PREEMPTION_SECONDS = 3.0  # Slurm's second signal follows the first within them
SIGNALS = (signal.SIGTERM, signal.SIGINT)


# Of the main process alone: the configs it has checked, and who wants to know that a record has changed.
checked: dict[str, Any] = {}
changed: list[Callable[[], None]] = []


def run_job(cfg: Any, *, work: Work, source: Source, sweep: Sweep) -> float | None:
    """Hydra's task: the job's figure where it has been reached, else None; how it went is in the record.

    Leaves the process where the job was stopped in the main process: the next one must not start.
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
        limit = stack.enter_context(_stoppable(sweep))
        _note(sweep, record)
        try:
            _fill(record, lambda: checked.get(record.overrides) or load(overrides, source=source), work)
        except (Interrupted, KeyboardInterrupt) as error:
            record.state, record.error = "interrupted", str(error) or "interrupted"
            record.exit_code = error.exit_code if isinstance(error, Interrupted) else 130
        except MltrainError as error:
            log.error("%s", error)
            record.state, record.error, record.exit_code = "failed", str(error), error.exit_code
        except Exception as error:
            log.exception("job %d: %s", number + 1, record.label)
            record.state, record.error, record.exit_code = "failed", f"{type(error).__name__}: {error}", 1
        limit.over = True
        record.seconds = round(time.time() - record.started, 2)
        if record.state == "interrupted":
            _interrupted(sweep, record, limit)
        _note(sweep, record)
    _let_go()
    return record.value


def _fill(record: Record, config: Callable[[], Any], work: Work) -> None:
    cfg = config()
    folder = run_folder(cfg)
    record.folder = str(folder)
    before = folder / "result.json"
    if before.is_file() and not cfg.rerun:
        record.state, result = "before", json.loads(before.read_text())
    else:
        result = work(cfg)
        record.state = "finished"
    best = result.get("best") if isinstance(result, dict) else None
    if best:
        record.figure = best.get("by", "map")
        record.value = best[record.figure]


def _interrupted(sweep: Sweep, record: Record, limit: _Limit) -> None:
    log.warning("%s", record.error)
    end = time.monotonic() + PREEMPTION_SECONDS
    while sweep.launcher == "slurm" and not limit.reached and sweep.stopped_by() is None and time.monotonic() < end:
        time.sleep(0.1)  # a job that must make room gets SIGTERM first
    if limit.reached and sweep.stopped_by() is None:
        record.state = "waiting"
        _note(sweep, record)
        try:
            limit.requeue()  # leaves the process where the queue takes the job back
        except Exception as error:
            log.exception("not queued again")
            record.state, record.error = "interrupted", f"time limit reached, and not queued again: {error}"
        return
    if sweep.launcher != "slurm":  # whose jobs are stopped one by one
        sweep.request_stop(record.exit_code - 128)
    if sweep.here:
        _note(sweep, record)
        sys.exit(record.exit_code)


def _note(sweep: Sweep, record: Record) -> None:
    if int(os.environ.get("RANK", "0")) == 0 or sweep.here:
        sweep.write(record)
    if sweep.here:
        for listener in changed:
            listener()


def _let_go() -> None:
    """Give back what the job held, for the next one in this process."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class _Limit:
    """Slurm's warning that the job's time is over, which submitit answers by queueing it again."""

    def __init__(self, answer: Any) -> None:
        self.reached = False
        self.over = False
        """the work has ended: signals that come late are passed over"""
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
    """A signal outside training ends the job at once; in training the runner's own handlers save first."""

    if threading.current_thread() is not threading.main_thread():  # where Python sets no handlers
        yield _Limit(None)
        return

    def stop(number: int, frame: Any) -> None:
        if not limit.over:
            raise Interrupted(f"stopped by {signal.Signals(number).name} outside training", number)

    limit = _Limit(signal.getsignal(signal.SIGUSR2) if os.environ.get("SUBMITIT_EXECUTOR") else None)
    previous = {number: signal.signal(number, stop) for number in SIGNALS}
    ended = threading.Event()
    if not sweep.here:
        threading.Thread(target=_obey, args=(sweep, ended), daemon=True).start()
    try:
        yield limit
    finally:
        ended.set()
        for number, handler in previous.items():
            # joblib kills all jobs when one of its processes dies, so none may die of a signal between two jobs.
            signal.signal(number, signal.SIG_IGN if sweep.launcher == "joblib" and not sweep.here else handler)


def _obey(sweep: Sweep, ended: threading.Event) -> None:
    while not ended.wait(STOP_SECONDS):
        if sweep.stopped_by() is not None:
            os.kill(os.getpid(), signal.SIGTERM)
            return


@contextmanager
def _own_process(sweep: Sweep, number: int) -> Iterator[None]:
    """The surroundings of a job away from the main process: folder, ranks, cores, and a log for all it says."""
    if not (sweep.cwd.is_dir() and sweep.folder.is_dir()):
        raise MltrainError(f"{sweep.folder}: not there on {socket.gethostname()}; a sweep needs folders that all share")
    os.chdir(sweep.cwd)
    _join_ranks()
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method(None, force=True)  # workers of a job start as those of any run
    if sweep.cores is not None:
        os.environ["MLTRAIN_CORES"] = str(sweep.cores)
        os.environ.setdefault("OMP_NUM_THREADS", str(sweep.cores))
    rank = os.environ.get("RANK", "0")
    name = sweep.record_file(number).stem + (f"-rank{rank}" if rank != "0" else "")
    with (sweep.folder / f"{name}.log").open("ab") as file:
        kept = [os.dup(stream) for stream in (1, 2)]
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            log_to_stderr()
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for stream, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, stream)
                os.close(copy)


def _join_ranks() -> None:
    """Tell the processes of one submitit job of each other, as torchrun would."""
    if not os.environ.get("SUBMITIT_EXECUTOR"):
        return
    import submitit

    if submitit.JobEnvironment().num_tasks > 1:
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
