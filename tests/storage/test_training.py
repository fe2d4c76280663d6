"""Batches and runs do not depend on where the images lie."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mltrain.datasets.csv import csv_file
from mltrain.datasets.splits import check_files, check_splits
from mltrain.errors import DataError, Interrupted
from mltrain.labels import LabelSet
from mltrain.pipeline.augment import EvalResize, TrainAugment
from mltrain.pipeline.batch import Batch
from mltrain.pipeline.cache import cached_images
from mltrain.pipeline.loader import EvalLoader, TrainLoader
from mltrain.pipeline.samplers import UniformSampler
from mltrain.runs.image_roots import image_roots
from mltrain.runs.predictor import Predictor, image_files
from tests.pipeline.test_loader import equal
from tests.promises.runs import TINY, assert_same, fit, records, state, stop_at

from .made import make_parquet, make_tar, make_zip, row

KINDS = ("files", "tar", "zip", "parquet")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Labels and root of 48 images whose colour channels are their labels, by where the images lie."""
    folder = tmp_path_factory.mktemp("places")
    generator = np.random.default_rng(0)
    files, lines = [], []
    for k in range(48):
        present = generator.random(3) < 0.5
        present[k % 3] = True
        file = f"{'ab'[k % 2]}/{k:02d}.png"
        (folder / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        pixels = 255 * np.broadcast_to(present, (32, 32, 3)) ^ generator.integers(0, 64, (32, 32, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / file)
        files.append(file)
        lines.append(f"{';'.join('rgb'[c] for c in np.flatnonzero(present))},{'train' if k < 32 else 'val'}")
    roots = {
        "files": folder / "images",
        "tar": make_tar(folder / "i.tar", folder / "images", files),
        "zip": make_zip(folder / "i.zip", folder / "images", files),
        "parquet": make_parquet(folder / "i.parquet", [(folder / "images" / file).read_bytes() for file in files]),
    }
    made = {}
    for kind, root in roots.items():
        names = [row(k) for k in range(48)] if kind == "parquet" else files
        listed = [f"{name},{line}" for name, line in zip(names, lines, strict=True)]
        (folder / f"{kind}.csv").write_text("\n".join(["image,labels,split", *listed]) + "\n")
        made[kind] = (folder / f"{kind}.csv", root)
    return made


def labels_of(places: dict[str, tuple[Path, Path]], kind: str) -> tuple[LabelSet, LabelSet]:
    file, root = places[kind]
    splits = csv_file(file=str(file), root=str(root))
    check_splits(splits)
    check_files(splits.train)
    return splits.train, splits.val


def batches(labels: LabelSet, val: LabelSet, cache: Path | None, workers: int) -> Iterator[Batch]:
    augment = TrainAugment(image_size=24, crop="random_resized", color_jitter=0.3, cutout=0.5)
    resize = EvalResize(image_size=24)
    loader = TrainLoader(
        labels,
        augment,
        UniformSampler(labels=labels, seed=3),
        batch_size=8,
        num_workers=workers,
        seed=3,
        cache=None if cache is None else cached_images(labels, augment.cache_resize(28), folder=cache),
    )
    yield from loader.epoch(0)
    yield from loader.epoch(1, start_step=2)
    loader.close()
    cached = None if cache is None else cached_images(val, resize, folder=cache)
    evaluation = EvalLoader(val, resize, batch_size=8, num_workers=workers, cache=cached)
    yield from evaluation
    evaluation.close()


def test_batches_are_the_same_with_and_without_workers_and_cache(places, tmp_path: Path) -> None:
    for name, cache in (("files", None), ("cache", tmp_path / "cache")):
        expected = list(batches(*labels_of(places, "files"), cache, 0))
        for kind in KINDS[1:]:
            equal(batches(*labels_of(places, kind), cache, 0), expected)
        equal(batches(*labels_of(places, "tar"), cache, 2), expected)
        assert len(expected) == 8, name


@pytest.mark.slow
def test_spawned_workers_read_archives(places, monkeypatch: pytest.MonkeyPatch) -> None:
    _, val = labels_of(places, "zip")
    expected = list(EvalLoader(val, EvalResize(image_size=24), batch_size=8, num_workers=0))
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: "spawn")
    loader = EvalLoader(val, EvalResize(image_size=24), batch_size=8, num_workers=1)
    equal(loader, expected)
    loader.close()


def test_the_cache_is_made_again_when_the_archive_changes(tmp_path: Path) -> None:
    for k in range(3):
        Image.fromarray(np.full((20, 20, 3), 40 * k, np.uint8)).save(tmp_path / f"{k}.png")
    files = [f"{k}.png" for k in range(3)]
    archive = make_tar(tmp_path / "a.tar", tmp_path, files)
    labels = LabelSet.from_lists(name="t", root=archive, files=files, class_names=["x"], positives=[[0]] * 3)
    resize = EvalResize(image_size=8)
    assert cached_images(labels, resize, folder=tmp_path / "cache").read(1).max() == 40
    Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(tmp_path / "1.png")
    make_tar(archive, tmp_path, files)
    assert cached_images(labels, resize, folder=tmp_path / "cache").read(1).max() == 200
    make_tar(archive, tmp_path, files[:2])
    with pytest.raises(DataError, match=r"a.tar/2.png: cannot read the file: .*has no member '2.png'"):
        cached_images(labels, resize, folder=tmp_path / "cache")


def arguments(places, kind: str, runs: Path) -> list[str]:
    file, root = places[kind]
    frame = [item for item in TINY if not item.startswith(("dataset.", "logger.report"))]
    return [
        *frame,
        "runner.epochs=1",
        "dataset=csv",
        f"dataset.file={file}",
        f"dataset.root={root}",
        f"paths.runs={runs}",
    ]


def test_runs_are_the_same_and_resume_the_same(places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(arguments(places, "files", tmp_path / "files"))
    for kind in KINDS[1:]:
        given = arguments(places, kind, tmp_path / kind)
        if kind != "tar":
            with monkeypatch.context() as patch, pytest.raises(Interrupted):
                stop_at(patch, 1)
                fit(given)
        run = fit([*given, "logger.report=true"] if kind == "zip" else given)
        for name in ("last", "best"):
            assert_same(state(run, name), state(whole, name))
        assert records(run) == records(whole)
    roots = image_roots(run)
    assert roots == {"val": places["parquet"][1]}, "the report finds its pictures"


def test_prediction_reads_members_and_lists_archives(places, tmp_path: Path) -> None:
    reported = ["runner.max_steps=1", "logger.report=true"]
    run, of_files = (fit([*arguments(places, kind, tmp_path / kind), *reported]) for kind in ("zip", "files"))
    pictures = [
        re.findall(r"data:image/jpeg;base64,[^\"' )]+", (f / "report.html").read_text()) for f in (run, of_files)
    ]
    assert pictures[0] == pictures[1] and len(pictures[0]) > 10, "the report has the same pictures as from files"
    predictor = Predictor.from_run(run)
    scores = []
    for kind in KINDS:
        root = str(places[kind][1])
        files = image_files([root])
        assert len(files) == 48 and files[0].startswith(root)
        by_number = sorted(files, key=lambda file: int(Path(file).stem))
        predicted = list(predictor.predict(by_number))
        assert not [p.error for p in predicted if p.error]
        scores.append([p.labels for p in predicted])
    assert scores[0] == scores[1] == scores[2] == scores[3]
    zipped = places["zip"][1]
    assert image_files([f"{zipped}/a", f"{zipped}/b/01.png"])[23:] == [f"{zipped}/a/46.png", f"{zipped}/b/01.png"]
    (wrong,) = predictor.predict([f"{zipped}/a/none.png"])
    assert "has no member 'a/none.png'" in str(wrong.error)
    assert predictor(f"{zipped}/a/46.png") == scores[0][46]
