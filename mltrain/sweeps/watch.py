"""Progress of a sweep, read from its jobs' records: a line for each job that starts or ends, and the summary."""

from __future__ import annotations

import json
import logging
import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mltrain.progress import duration
from mltrain.sweeps import job as sweep_job
from mltrain.sweeps.record import ENDED, Record, Sweep
from mltrain.text import counted

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
NAMES = {"map": "mAP"}
FOLD = "dataset.fold"
_REPEATS = re.compile(r"(?:^| )\+*(?:dataset\.fold|seed)=\d+(?= |$)")
STATES = {
    "finished": "finished",
    "before": "finished before",
    "failed": "failed",
    "interrupted": "interrupted",
    "waiting": "waiting in the queue",
    "running": "cut off",
}


class Watch:
    """Reader of a sweep's records; it logs which job starts and how each ended, the time left and the best figure.

    Jobs write their records to the sweep's folder, from any process or machine.

    Args:
        before: number of jobs that were finished when the sweep began.
    """

    def __init__(self, sweep: Sweep, *, before: int) -> None:
        self.sweep, self.before = sweep, before
        self._seen: dict[int, Record] = {}
        self._at_once = 1
        self._lock = threading.Lock()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Log what happens to jobs during a block."""
        total = self.sweep.total
        many = "a sweep" if total is None else "1 job" if total == 1 else f"{total} jobs"
        done = f", {self.before} of them finished before" if self.before else ""
        log.info("%s%s; launcher %s; records in %s", many, done, self.sweep.launcher, self.sweep.folder)
        left = threading.Event()
        thread = threading.Thread(target=self._poll, args=(left,), daemon=True)
        sweep_job.changed.append(self.look)
        thread.start()
        try:
            yield
        finally:
            sweep_job.changed.remove(self.look)
            left.set()
            thread.join()
            self.look()

    def records(self) -> list[Record]:
        """Return the records seen so far, in the order of the jobs."""
        return [self._seen[number] for number in sorted(self._seen)]

    def _poll(self, left: threading.Event) -> None:
        while not left.wait(POLL_SECONDS):
            self.look()

    def look(self) -> None:
        """Read new and changed records, and log them."""
        with self._lock:
            for file in sorted(self.sweep.folder.glob("job-*.json")):
                number = int(file.stem.partition("-")[2])
                known = self._seen.get(number)
                if known is not None and known.state in ENDED:
                    continue
                try:
                    record = Record(**json.loads(file.read_text(encoding="utf-8")))
                except (OSError, ValueError):  # a network drive may lag behind; the next look finds the record
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
        found = best(self.sweep, ended)
        if found:
            parts.append(found[0].replace(" ", " so far ", 1))
        log.info("%s", "  |  ".join(parts))

    def _time_left(self, ended: list[Record]) -> float | None:
        """Estimate the seconds until all jobs are done, from the mean of finished jobs and the most jobs at once."""
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


def best(sweep: Sweep, records: list[Record]) -> list[str]:
    """Return what a sweep has reached, for the log: its best job and that job's folder; [] without a figure.

    Folds are parts of one result, so a sweep over folds has no best job: figures are averaged over folds and seeds.
    """
    done = [record for record in records if record.value is not None]
    if not done:
        return []
    if FOLD not in sweep.varied:
        top = max(done, key=lambda record: record.value or 0.0)
        return [f"best {figure(top)}: {top.label}", f"  {top.folder}"]
    rows: dict[str, list[float]] = {}
    for record in done:
        rows.setdefault(_REPEATS.sub("", record.label).strip(), []).append(record.value or 0.0)
    label, values = max(rows.items(), key=lambda row: sum(row[1]) / len(row[1]))
    text = f"{'best ' if len(rows) > 1 else ''}mean {_name(done[0])} {sum(values) / len(values):.2f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.2f}"
    return [f"{text} over {counted(len(values), 'run')}" + (f": {label}" if label else "")]


def figure(record: Record) -> str:
    """Return name and value of a job's figure: mAP 40.00."""
    return f"{_name(record)} {record.value:.2f}"


def _name(record: Record) -> str:
    return NAMES.get(str(record.figure), str(record.figure))


def summary(sweep: Sweep, records: list[Record]) -> str:
    """Return how many jobs ended how, the best of them, and the failed ones with their reasons."""
    counts = Counter(STATES[record.state] for record in records)
    if sweep.total is not None and sweep.total > len(records):
        counts["not started"] = sweep.total - len(records)
    lines = ["", "sweep: " + ", ".join(f"{count} {name}" for name, count in counts.items())]
    lines += best(sweep, records)
    reasons: dict[str, list[Record]] = {}
    for record in records:
        if record.state == "failed":
            reasons.setdefault(_short(record.error), []).append(record)
    for reason, failed in reasons.items():  # a common reason, such as missing data, is printed once
        lines += [f"failed: {record.label}" for record in failed] + [f"  {reason}"]
        logs = [sweep.record_file(record.number).with_suffix(".log") for record in failed]
        lines += [f"  {log_file}" for log_file in logs if log_file.exists()]
    return "\n".join(lines)


def _short(error: str | None) -> str:
    text = (error or "").strip().split("\n")[0]
    return text if len(text) <= 300 else text[:297] + "..."
