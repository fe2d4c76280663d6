"""TensorBoard's event files: figures, PR curves, pictures, and the hyper-parameters of a finished run.

`torch.utils.tensorboard` is imported when a run first writes: other tools of the project need not pay for it.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mltrain.engine.run_folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

THRESHOLDS = 127
"""Points of a PR curve: TensorBoard reads no more."""
FINAL = "final"
"""Folder in which versions before 0.2 wrote the events of the end of a run; TensorBoard showed it as a second run."""


class TensorBoard:
    """Event files of a run; `events` is open between `resume` and `close`."""

    events: SummaryWriter

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = False

    def resume(self, step: int, *, evaluated: bool = True) -> None:
        """Open the event files; TensorBoard forgets what an earlier start recorded after `step`.

        Without `evaluated`, the evaluation at `step` is still to come: that of an earlier start is forgotten with the
        loss of the step, which is recorded again.
        """
        from torch.utils.tensorboard import SummaryWriter

        forgotten = step + 1 if evaluated else step
        _wait_for_next_second(self.folder)
        # A new start forgets everything.
        self.events = SummaryWriter(str(self.folder), purge_step=forgotten if step else 0, flush_secs=30)
        self._open = True
        if step and not evaluated:
            for record in RunFolder(self.folder.parent).steps:
                if record["step"] == step:
                    self.log(step, {key: value for key, value in record.items() if key != "step"})

    def log(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Record the numbers among `scalars`."""
        for key, value in scalars.items():
            if isinstance(value, int | float):
                self.events.add_scalar(key, value, step)

    def flush(self) -> None:
        """Write the events that are still in memory, so that a killed run loses none before its checkpoint."""
        self.events.flush()

    def close(self, failed: bool) -> None:
        """Write the events that are still in memory and close the files."""
        if self._open:
            self._open = False
            try:
                self.events.close()
            except OSError:
                if not failed:  # else the error that ends the run is the one to read
                    raise


def _wait_for_next_second(folder: Path) -> None:
    """Wait until a new event file sorts after those in `folder`.

    TensorBoard reads the files in the order of their names: the second they were opened at, host, process id, and a
    counter without leading zeros. Two starts within one second could be read in the wrong order, and the older one
    would then make TensorBoard forget the newer.
    """
    found = [re.match(r"events\.out\.tfevents\.(\d+)\.", path.name) for path in folder.glob("events.out.tfevents.*")]
    newest = max((int(match[1]) for match in found if match), default=0)
    if newest == int(time.time()):
        time.sleep(newest + 1 - time.time())


def add_pr_curve(events: SummaryWriter, tag: str, counts: np.ndarray, step: int) -> None:
    """Record a precision-recall curve.

    Args:
        events: event files.
        tag: name of the curve.
        counts: (2, T): positives and negatives with a probability of at least k / (T - 1), for k = 0 .. T - 1.
        step: optimizer step.
    """
    tp, fp = counts.astype(np.float64)
    positives, negatives = tp[0], fp[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        # TensorBoard's own curves have a precision of 0 where nothing is predicted, which draws a spike.
        precision = np.where(tp + fp > 0, tp / (tp + fp), 1.0)
        recall = np.where(positives > 0, tp / positives, 0.0)
    rates = {"precision": precision, "recall": recall, "num_thresholds": counts.shape[1]}
    events.add_pr_curve_raw(tag, tp, fp, negatives - fp, positives - tp, global_step=step, **rates)


def add_jpeg(events: SummaryWriter, tag: str, content: bytes, size: tuple[int, int], step: int) -> None:
    """Record a JPEG file of `size` (width, height); `SummaryWriter.add_image` would write PNG, five times as large."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=content)
    writer: Any = events.file_writer  # opened by the constructor of `SummaryWriter`
    writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


@contextmanager
def final_events(
    folder: Path, step: int, hyperparameters: Mapping[str, Any], metrics: Mapping[str, float]
) -> Iterator[SummaryWriter]:
    """Record the end of a run: its row of the HParams tab, its final figures, and the events that the block adds.

    They belong at step + 1: a run that goes on from a checkpoint, or that was killed at its very end and finishes
    twice, makes TensorBoard forget them (see `TensorBoard.resume`).

    Args:
        folder: event files of the run, which are closed; a new one is added.
        step: the last optimizer step.
        hyperparameters: numbers and text by name.
        metrics: final figures. The HParams tab shows the first five of all tags of a run in the order of the alphabet.
    """
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    shutil.rmtree(folder / FINAL, ignore_errors=True)
    _wait_for_next_second(folder)
    # Not `SummaryWriter.add_hparams`: it also writes a list of all hyper-parameters, and with such a list TensorBoard
    # does not find out which of them differ between the runs below a folder.
    _, start, end = hparams(dict(hyperparameters), {})
    with SummaryWriter(str(folder)) as events:
        for summary in (start, end):
            events.file_writer.add_summary(summary, step + 1)
        for key, value in metrics.items():
            events.add_scalar(key, float(value), step + 1)
        yield events
