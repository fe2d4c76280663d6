"""Profile of a few training steps, by torch.profiler: what `debug=profile` runs."""

from __future__ import annotations

import logging
from typing import Any

from mltrain.callbacks.base import Callback, TrainingView

logger = logging.getLogger(__name__)

TABLE, TRACE = "profile.txt", "trace.json"


class Profile(Callback):
    """Measure where the time of some steps goes; print a table and write it with a Chrome trace to the run folder.

    Open the trace in chrome://tracing or https://ui.perfetto.dev.

    Args:
        wait: steps before it, so that caches and compilation do not count.
        steps: steps that are measured.
        rows: rows of the table, the operations that take the longest.
        shapes: keep the shapes of the operations' inputs, which costs time.
    """

    def __init__(self, *, wait: int = 3, steps: int = 5, rows: int = 15, shapes: bool = False) -> None:
        if min(wait, steps - 1, rows - 1) < 0:
            raise ValueError(f"wait={wait}, steps={steps}, rows={rows}: must be at least 0, 1 and 1")
        self.wait, self.steps, self.rows, self.shapes = wait, steps, rows, shapes
        self._profiler: Any = None
        self._seen = 0

    def start(self, run: TrainingView) -> None:
        """Prepare the profiler, or start it if no step is waited for."""
        from torch.profiler import profile

        self._seen = 0
        self._profiler = profile(record_shapes=self.shapes)
        if self.wait == 0:
            self._profiler.start()

    def step(self, run: TrainingView) -> None:
        """Count the step; start or end the measurement."""
        self._seen += 1
        if self._profiler is None:
            return
        if self._seen == self.wait:
            self._profiler.start()
        elif self._seen == self.wait + self.steps:
            self._write(run, self.steps)

    def end(self, run: TrainingView) -> None:
        """Write what was measured, if the training was shorter than asked for."""
        if self._profiler is None:
            return
        measured = self._seen - self.wait
        if measured > 0:
            self._write(run, measured)
        else:
            logger.warning(
                "no profile: the training had %d steps, and the first %d are not measured", self._seen, self.wait
            )

    def _write(self, run: TrainingView, steps: int) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        averages = profiler.key_averages()
        on_gpu = any(getattr(event, "self_device_time_total", 0) for event in averages)
        table = averages.table(sort_by=f"self_{'device' if on_gpu else 'cpu'}_time_total", row_limit=self.rows)
        (run.folder / TABLE).write_text(table, encoding="utf-8")
        profiler.export_chrome_trace(str(run.folder / TRACE))
        logger.info("profile of %d steps, up to step %d\n%s", steps, run.step, table)
        logger.info("trace for chrome://tracing or https://ui.perfetto.dev: %s", run.folder / TRACE)
