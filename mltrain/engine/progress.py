"""Progress of a training: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mltrain.engine.run_folder import EMA, WEIGHTS
from mltrain.metrics.summary import TITLES
from mltrain.progress import LINE_SECONDS, Display, Mode, duration

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {postfix}"


class Progress(Display):
    """Loss, LR, images/s, share of time spent waiting for data, and time left for the whole run.

    A loss given as a tensor is read, which waits for a GPU, only when it is shown.

    Args:
        mode: bar, lines (one every `line_seconds`), off, or auto: a bar if stderr is a terminal, else lines.
        enabled: False: show nothing, but measure (on ranks other than the main one).
        line_seconds: time between two lines.
    """

    def __init__(
        self,
        *,
        mode: Mode = "auto",
        enabled: bool = True,
        line_seconds: float = LINE_SECONDS,
    ) -> None:
        super().__init__(mode if enabled else "off", line_seconds)
        self._epoch = self._epochs = self._steps = self._step = self._left = 0
        # Totals of this process: seconds training, images, seconds waiting for data.
        self._totals = np.zeros(3)
        self._shown = self._reported = np.zeros(3)
        self._started: float | None = None
        self._done = 0
        self._last = self._next = 0.0

    def start_epoch(self, epoch: int, epochs: int, steps: int, start: int, left: int) -> None:
        """Start epoch `epoch` (from 0) of `epochs` at its step `start` of `steps`; `left` steps of the run remain."""
        now = time.perf_counter()
        self._epoch, self._epochs, self._steps, self._step, self._left = epoch, epochs, steps, start, left
        self._started = now if self._started is None else self._started
        self._last, self._next = now, now + self._every
        self._open_bar(f"epoch {epoch + 1}/{epochs}", start, steps, bar_format=_BAR_FORMAT)

    def update(self, *, loss: float | torch.Tensor, lr: float, images: int, waited: float) -> None:
        """Count a step of `images` over all ranks that waited `waited` seconds for the loader."""
        now = time.perf_counter()
        self._totals = np.add(self._totals, (now - self._last, images, waited))
        self._last = now
        self._step += 1
        self._done += 1
        self._left -= 1
        if now >= self._next:
            self._next = now + self._every
            self._show(float(loss), lr)

    def end_epoch(self, line: str) -> None:
        """Log `line`, the summary of an epoch and its evaluation."""
        self._close_bar()
        if self.mode != "off":
            logger.info("%s  %.0f img/s", line, self.mean_rate())

    def rates(self) -> dict[str, float]:
        """Return images/s and the share of waiting for data since the last call, of training without evaluation."""
        speed, share = self._window(self._reported)
        self._reported = self._totals
        return {"train/images_per_second": speed, "train/data_wait": share}

    def mean_rate(self) -> float:
        """Return images/s of all training in this process, without evaluation."""
        return self._window(np.zeros(3))[0]

    def _window(self, since: np.ndarray) -> tuple[float, float]:
        seconds, images, waited = (self._totals - since).tolist()
        return (images / seconds, waited / seconds) if seconds else (0.0, 0.0)

    def _show(self, loss: float, lr: float) -> None:
        speed, share = self._window(self._shown)
        self._shown = self._totals
        figures = f"loss {loss:.4g}  lr {lr:.2e}  {speed:.0f} img/s  data {share:.0%}  eta {duration(self._eta())}"
        if self._bar is not None:
            self._bar.n = self._step
            self._bar.set_postfix_str(figures)
        else:
            logger.info("epoch %d/%d  step %d/%d  %s", self._epoch + 1, self._epochs, self._step, self._steps, figures)

    def _eta(self) -> float:
        """Return the seconds left for the whole run at this process's pace so far, evaluations included."""
        assert self._started is not None
        return (time.perf_counter() - self._started) / self._done * self._left


def epoch_line(record: Mapping[str, Any], epochs: int, by: str) -> str:
    """Return the line that sums up an epoch: its loss, and the figure `by` of the raw and the EMA weights."""
    parts = [f"epoch {record['epoch']}/{epochs}", f"loss {record['train_loss']:.4g}"]
    for name in WEIGHTS:
        if name in record:
            label = ("EMA " if name == EMA else "") + TITLES.get(by, by)
            parts.append(f"{label} {record[name][by]:.2f}")
    return "  ".join(parts)
