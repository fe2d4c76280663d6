"""Checkpoints of single epochs: which of them a run keeps, and for how long its figure may fail to improve.

    best.pt          weights of the best epoch
    epoch-0007.pt    weights of an evaluated epoch, kept by `runner.keep_best` or `runner.keep_last`

Both questions are answered from the history of a run alone, so a resumed run answers them as one that never stopped.
An epoch's file is written before the `last.pt` that knows of the epoch, and others are removed after it: at every
instant the folder has at least the files that the history of its `last.pt` asks for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.run_folder import EPOCH, WEIGHTS, epoch_of
from mltrain.engine.state import TrainState
from mltrain.metrics.summary import TITLES

History = Sequence[Mapping[str, Any]]


def figures(history: History, by: str) -> dict[int, float]:
    """Return the figure `by` of each evaluated epoch: that of the better of its raw and EMA weights."""
    found = {}
    for record in history:
        values = [record[weights].get(by) for weights in WEIGHTS if weights in record]
        known = [value for value in values if value is not None]
        if known:
            found[int(record["epoch"])] = max(known)
    return found


@dataclass(frozen=True)
class Patience:
    """Early stopping: so many evaluations in a row without a better figure end the run."""

    evaluations: int | None = None
    """None: the run goes on to its last epoch"""
    min_delta: float = 0.0
    """only a figure that is higher than the best by more than this counts as better"""
    start: int = 0
    """evaluations of epochs up to this one do not count as failures; for a run that extends another"""

    def why(self, history: History, by: str, epochs: int) -> str:
        """Say why a run ends after the last evaluation in its history; empty if it goes on.

        Args:
            history: of the run.
            by: figure of the validation split that counts; higher is better.
            epochs: of the whole run.
        """
        best, since, failures = -math.inf, self.start, 0
        for epoch, figure in figures(history, by).items():
            if figure > best + self.min_delta:
                best, since, failures = figure, epoch, 0
            elif epoch > self.start:
                failures += 1
        if self.evaluations is None or failures < self.evaluations:
            return ""
        title, after = f"validation {TITLES.get(by, by)}", history[-1]["epoch"]
        wanted = f"{title} higher by {self.min_delta:g}" if self.min_delta else f"better {title}"
        ended = f"runner.patience={self.evaluations} ended it after epoch {after} of {epochs}"
        return f"{ended}: no {wanted} since epoch {since}"


@dataclass(frozen=True)
class KeptEpochs:
    """The checkpoints of single epochs in a run folder. One process writes."""

    checkpoints: CheckpointFolder
    by: str
    """figure that ranks epochs; higher is better, and of equal ones the earlier is better"""
    best: int = 1
    """how many of the best epochs are kept; 1: best.pt alone"""
    last: int = 0
    """how many of the last evaluated epochs are kept"""

    def save(self, state: TrainState, history: History, *, is_best: bool) -> None:
        """Write the weights of an epoch that has just been evaluated, where it is one to keep, and best.pt.

        Args:
            state: its `best` says of which epoch it is, and the figure of that epoch.
            history: up to the epoch before.
            is_best: it is the best so far.
        """
        epoch = int(state.best["epoch"])
        scores = figures(history, self.by)
        known = {kept: scores[kept] for kept in self.epochs() if kept in scores}
        if epoch in self._wanted({**known, epoch: state.best[self.by]}):
            self.checkpoints.save(state.to_dict(), EPOCH.format(epoch))
            if is_best:
                self.checkpoints.link(EPOCH.format(epoch), "best")
        elif is_best:
            self.checkpoints.save(state.to_dict(), "best")

    def prune(self, history: History) -> None:
        """Remove the files that the settings no longer ask for, and those of epochs that the history does not have.

        Such an epoch was evaluated before a kill, and is trained and written again.
        """
        scores = figures(history, self.by)
        found = self.epochs()
        wanted = self._wanted({epoch: scores[epoch] for epoch in found if epoch in scores})
        for epoch in found:
            if epoch not in wanted:
                self.checkpoints.path(EPOCH.format(epoch)).unlink(missing_ok=True)

    def restore(self, history: History) -> None:
        """Tidy up when a run resumes: prune, and give the best epoch its file if it has none.

        It has none if the run kept fewer checkpoints before.
        """
        self.prune(history)
        scores = figures(history, self.by)
        if self.best == 1 or set(_ranked(scores)[:1]) <= set(self.epochs()) or self.checkpoints.problem("best"):
            return
        epoch = ((self.checkpoints.load("best") or {}).get("best") or {}).get("epoch")
        if epoch in scores and epoch not in self.epochs():
            self.checkpoints.link("best", EPOCH.format(epoch))

    def epochs(self) -> list[int]:
        """Return the epochs that have a file, in their order."""
        names = (path.stem for path in self.checkpoints.folder.glob("*.pt"))
        return sorted(epoch for name in names if (epoch := epoch_of(name)) is not None)

    def _wanted(self, scores: Mapping[int, float]) -> set[int]:
        best = _ranked(scores)[: self.best] if self.best > 1 else []
        return {*best, *sorted(scores)[len(scores) - self.last :]}


def _ranked(scores: Mapping[int, float]) -> list[int]:
    """Return the epochs, the best first."""
    return sorted(scores, key=lambda epoch: (-scores[epoch], epoch))
