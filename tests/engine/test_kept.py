"""Which checkpoints a run keeps, and when its patience ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.kept import KeptEpochs, Patience, figures
from mltrain.engine.run_folder import epoch_of
from mltrain.engine.state import TrainState


def history(*scores: float | None) -> list[dict[str, Any]]:
    """One record an epoch; None for an epoch that was not evaluated."""
    return [
        {"epoch": k, "train_loss": 1.0} | ({} if s is None else {"val": {"map": s}, "ema": {"map": s - 1}})
        for k, s in enumerate(scores, 1)
    ]


@pytest.mark.parametrize(
    ("scores", "patience", "since"),
    [
        ((5, 6, 6), 2, None),  # one failure
        ((5, 6, 6, 5), 2, 2),
        ((5, None, 4, None, 3), 2, 1),  # evaluations count, not epochs
        ((5, 4, 6, 4, 5), 2, 3),
        ((5, 5.4, 5.8, 6.2), 2, None),  # with min_delta 1: 6.2 is more than 1 above 5
        ((5, 5.4, 5.8), 2, 1),
        ((), 1, None),
    ],
)
def test_patience_counts_evaluations_since_the_best(
    scores: tuple[float | None, ...], patience: int, since: int | None
) -> None:
    delta = 1.0 if 5.4 in scores else 0.0
    wanted = "validation mAP higher by 1" if delta else "better validation mAP"
    ended = f"runner.patience={patience} ended it after epoch {len(scores)} of 9: no {wanted} since epoch "
    why = Patience(patience, delta).why(history(*scores), "map", 9)
    assert why == ("" if since is None else f"{ended}{since}")
    assert Patience().why(history(*scores), "map", 9) == ""


def test_patience_of_an_extension_begins_with_its_own_epochs() -> None:
    assert Patience(2, start=4).why(history(9, 8, 7, 6, 5), "map", 9) == ""
    assert "since epoch 1" in Patience(2, start=4).why(history(9, 8, 7, 6, 5, 4), "map", 9)


def test_the_better_of_raw_and_averaged_weights_counts() -> None:
    assert figures(history(3, None, 5), "map") == {1: 3, 3: 5}
    assert [epoch_of(name) for name in ("epoch-0007", "epoch-12345", "epoch-7", "best", "epoch-", "x-0007")] == [
        7, 12345, None, None, None, None,
    ]  # fmt: skip


def state(epoch: int, score: float) -> TrainState:
    best = {"epoch": epoch, "step": epoch, "weights": "val", "by": "map", "map": score}
    return TrainState({"w": torch.full((2,), float(epoch))}, None, ("a",), None, best)


def kept(folder: Path, scores: list[float], *, best: int = 1, last: int = 0, prune: bool = True) -> KeptEpochs:
    """Save the epochs of a run one after the other, as the runner does."""
    found = KeptEpochs(CheckpointFolder(folder), "map", best, last)
    for k, score in enumerate(scores, 1):
        is_best = score > max(scores[: k - 1], default=-1)
        found.save(state(k, score), history(*scores[: k - 1]), is_best=is_best)
        if prune or k < len(scores):
            found.prune(history(*scores[:k]))
    return found


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize(
    ("best", "last", "epochs"),
    [(1, 0, []), (2, 0, [2, 4]), (3, 0, [2, 3, 4]), (1, 2, [4, 5]), (2, 1, [2, 4, 5]), (9, 0, [1, 2, 3, 4, 5])],
)
def test_the_best_and_the_last_epochs_are_kept(tmp_path: Path, best: int, last: int, epochs: list[int]) -> None:
    scores = [1.0, 5.0, 4.0, 5.0, 2.0]
    found = kept(tmp_path, scores, best=best, last=last)
    assert found.epochs() == epochs
    assert names(tmp_path) == sorted(["best.pt", *(f"epoch-{epoch:04d}.pt" for epoch in epochs)])
    for name, epoch in [("best", 2), *((f"epoch-{epoch:04d}", epoch) for epoch in epochs)]:  # of equals, the first
        content = found.checkpoints.load(name)
        assert content is not None
        assert content["best"]["epoch"] == epoch == content["model"]["w"][0]
        assert content["best"]["map"] == scores[epoch - 1]


def test_at_every_instant_the_folder_has_what_the_last_checkpoint_asks_for(tmp_path: Path) -> None:
    scores = [1.0, 5.0, 4.0, 6.0]
    found = kept(tmp_path, scores, best=2, last=1, prune=False)
    assert {2, 3, 4} <= set(found.epochs()), "killed before last.pt has the fourth epoch: nothing is removed"
    found.restore(history(*scores[:3]))
    assert found.epochs() == [2, 3], "the fourth is trained again"
    assert found.checkpoints.load("best")["best"]["epoch"] == 4, "as without kept epochs: it is written again"
    found.save(state(4, 6.0), history(*scores[:3]), is_best=True)
    found.prune(history(*scores))
    assert found.epochs() == [2, 4]


def test_a_run_that_keeps_more_from_now_on_gives_its_best_epoch_a_file(tmp_path: Path) -> None:
    kept(tmp_path, [1.0, 5.0, 4.0])
    found = KeptEpochs(CheckpointFolder(tmp_path), "map", best=2)
    found.restore(history(1.0, 5.0, 4.0))
    assert found.epochs() == [2]
    found.restore(history(1.0, 5.0, 4.0))
    assert found.epochs() == [2]
    assert (tmp_path / "best.pt").samefile(tmp_path / "epoch-0002.pt"), "a second name needs no space"


def test_a_damaged_best_is_no_epoch_of_its_own(tmp_path: Path) -> None:
    kept(tmp_path, [1.0, 5.0, 4.0])
    (tmp_path / "best.pt").write_bytes(b"")
    found = KeptEpochs(CheckpointFolder(tmp_path), "map", best=2)
    found.restore(history(1.0, 5.0, 4.0))
    assert found.epochs() == []
