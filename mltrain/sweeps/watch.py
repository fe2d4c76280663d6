"""How a sweep stands, read from its jobs' records: a line for each job that starts or ends, and the summary."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from types import TracebackType

from mltrain.progress import duration
from mltrain.sweeps import job as sweep_job
from mltrain.sweeps.record import ENDED, Record, Sweep

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
NAMES = {"map": "mAP"}
STATES = {
    "finished": "finished",
    "before": "finished before",
    "failed": "failed",
    "interrupted": "interrupted",
    "waiting": "waiting in the queue",
    "running": "cut off",
}


class Watch:
    """Inside the `with` block, says which job starts and how each ended, with the time left and the best so far.

    `before`: how many of the jobs were finished when the sweep began. Records appear in the sweep's folder, written by
    whatever process a job runs in.
    """

    def __init__(self, sweep: Sweep, *, before: int) -> None:
        self.sweep, self.before = sweep, before
        self._seen: dict[int, Record] = {}
        self._at_once = 1
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Watch:
        many = f"{self.sweep.total} jobs" if self.sweep.total is not None else "a sweep"
        many = "1 job" if self.sweep.total == 1 else many
        done = f", {self.before} of them finished before" if self.before else ""
        log.info("%s%s; launcher %s; records in %s", many, done, self.sweep.launcher, self.sweep.folder)
        sweep_job.changed.append(self.look)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sweep_job.changed.remove(self.look)
        self._left.set()
        self._thread.join()
        self.look()

    def records(self) -> list[Record]:
        return [self._seen[number] for number in sorted(self._seen)]

    def _poll(self) -> None:
        while not self._left.wait(POLL_SECONDS):
            self.look()

    def look(self) -> None:
        """Read what is new and say it."""
        with self._lock:
            for file in sorted(self.sweep.folder.glob("job-*.json")):
                number = int(file.stem.partition("-")[2])
                known = self._seen.get(number)
                if known is not None and known.state in ENDED:
                    continue
                try:
                    record = Record(**json.loads(file.read_text()))
                except (OSError, ValueError):  # a network drive that is behind; the next look finds it
                    continue
                if known is None or record.state != known.state:
                    self._seen[number] = record
                    running = sum(other.state == "running" for other in self._seen.values())
                    self._at_once = max(self._at_once, running)
                    self._say(record, first=known is None)

    def _say(self, record: Record, *, first: bool) -> None:
        of = f" of {self.sweep.total}" if self.sweep.total is not None else ""
        if first and record.state != "before":
            log.info("\njob %d%s: %s", record.number + 1, of, record.label)
        if record.state == "running":
            return
        parts = [f"job {record.number + 1}{of} {STATES[record.state]}"]
        if record.state in ("failed", "interrupted"):
            parts[0] += f": {_short(record.error)}"
        elif record.value is not None:
            parts[0] += f", {figure(record)}"
        if record.state != "before":
            parts.append(duration(record.seconds))
        ended = [other for other in self._seen.values() if other.state in ENDED and other.state != "interrupted"]
        parts.append(f"{len(ended)}{of} done")
        left = self._time_left(ended)
        if left:
            parts.append(f"{duration(left)} left")
        top = best(ended)
        if top is not None:
            parts.append(f"best so far {figure(top)}: {top.label}")
        log.info("%s", "  |  ".join(parts))

    def _time_left(self, ended: list[Record]) -> float | None:
        """Seconds until all jobs are done, at the mean length of those trained, as many at once as were seen."""
        trained = [record.seconds for record in ended if record.state == "finished"]
        if not trained or self.sweep.total is None:
            return None
        mean = sum(trained) / len(trained)
        running = [record for record in self._seen.values() if record.state == "running"]
        skipped = sum(record.state == "before" for record in ended)
        waiting = self.sweep.total - len(ended) - len(running) - max(0, self.before - skipped)
        now = time.time()
        rest = sum(max(0.0, mean - (now - record.started)) for record in running)
        return (max(0, waiting) * mean + rest) / self._at_once


def best(records: list[Record]) -> Record | None:
    """The job with the highest figure."""
    return max((r for r in records if r.value is not None), key=lambda r: r.value or 0.0, default=None)


def figure(record: Record) -> str:
    assert record.figure is not None
    return f"{NAMES.get(record.figure, record.figure)} {record.value:.2f}"


def summary(sweep: Sweep, records: list[Record]) -> str:
    """How many jobs ended how, the best of them, and what failed and why."""
    counts = Counter(STATES[record.state] for record in records)
    if sweep.total is not None and sweep.total > len(records):
        counts["not started"] = sweep.total - len(records)
    lines = ["", "sweep: " + ", ".join(f"{count} {name}" for name, count in counts.items())]
    top = best(records)
    if top is not None:
        lines += [f"best {figure(top)}: {top.label}", f"  {top.folder}"]
    reasons: dict[str, list[Record]] = {}
    for record in records:
        if record.state == "failed":
            reasons.setdefault(_short(record.error), []).append(record)
    for reason, failed in reasons.items():  # missing data fail every job: said once
        lines += [f"failed: {record.label}" for record in failed] + [f"  {reason}"]
        logs = [sweep.record_file(record.number).with_suffix(".log") for record in failed]
        lines += [f"  {log_file}" for log_file in logs if log_file.exists()]
    return "\n".join(lines)


def _short(error: str | None) -> str:
    text = (error or "").strip().split("\n")[0]
    return text if len(text) <= 300 else text[:297] + "..."
