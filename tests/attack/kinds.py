"""The commands that are attacked: what they start from, and what must be the same afterwards."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.promises.runs import TINY

SMALL = [word for word in TINY if not word.startswith(("dataset.num", "runner.batch_size", "logger."))]
TRAIN = ["train", *SMALL, "dataset.num_train=40", "dataset.num_val=20", "runner.batch_size=8", "logger.progress=off"]
FOLDERS = ["paths.data=../data", "paths.runs=runs"]
FULL = [*TRAIN, *FOLDERS, "metrics.save_predictions=true"]
BRIEF = [*TRAIN, *FOLDERS, "runner.epochs=1", "logger.tensorboard=false", "logger.report=false", "name=given"]
Run = Callable[[list[str], Path], None]


@dataclass(frozen=True)
class Kind:
    """A command, and the folder that it starts from."""

    words: tuple[str, ...]
    prepare: Callable[[Path, Run], None] = lambda folder, run: None
    """fill the folder that every trial starts with a copy of"""
    words_in: Callable[[Path], list[str]] = lambda folder: []
    """further arguments, such as the run folder that `prepare` has made"""
    ranks: int = 1
    blows: int = 6
    """at most, one after the other, before the command may finish"""
    after: Callable[[Path], None] = lambda folder: None
    """make folders comparable whose names depend on the clock"""
    disk_mb: float | None = None
    """size of the disk that is too small, instead of one that is full from an operation on"""


def given_run(folder: Path, run: Run) -> None:
    run(BRIEF, folder)


def run_of(folder: Path) -> list[str]:
    (result,) = folder.glob("runs/*/given/*/result.json")
    return [result.parent.relative_to(folder).as_posix()]


def photographs(folder: Path, run: Run) -> None:
    """Large images with a table of labels."""
    import numpy as np
    from PIL import Image

    rows, generator = ["image,labels,split"], np.random.default_rng(0)
    (folder / "photos").mkdir()
    for k, suffix in enumerate(["jpg", "png", "webp", "jpg"] * 3):
        pixels = generator.integers(0, 256, (60, 80 if k % 3 else 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{k}.{suffix}")
        rows.append(f"{k}.{suffix},{'ab'[k % 2]},{'val' if k % 4 == 3 else 'train'}")
    (folder / "photos" / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def published(folder: Path, run: Run) -> None:
    """A published checkpoint."""
    import timm
    import torch

    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), folder / "theirs.pth")
    (folder / "names.txt").write_text("a\nb\nc\n", encoding="utf-8")


def named_table(folder: Path, run: Run) -> None:
    """Images whose class names are not ASCII."""
    from tests.promises.test_locale import table

    table(folder)


def named_run(folder: Path, run: Run) -> None:
    """Make a finished run of images whose class names are not ASCII."""
    named_table(folder, run)
    run([*NAMED, "name=given"], folder)


def newest_sweep(folder: Path) -> None:
    """Keep the folder of the last sweep alone, under a name that no clock gives."""
    *earlier, last = sorted((folder / "runs" / "multirun").iterdir(), key=lambda f: f.stat().st_mtime_ns)
    for sweep in earlier:
        shutil.rmtree(sweep)
    shutil.rmtree(last)  # its page and records tell what was finished before: they may differ


@functools.cache
def site_that_cuts() -> str:
    """Serve a small COCO in a process of its own, which cuts three answers of four; return its address."""
    import hashlib

    from mltrain.datasets import sources
    from mltrain.datasets.sources import PublishedCounts, RemoteFile, Retrieval
    from tests.prepare.conftest import Site, _handler
    from tests.prepare.test_fetch import IMAGES, annotations, jpeg, packed

    site, chance = Site(), random.Random(0)
    site.cuts = [chance.choice([chance.randrange(4000), chance.randrange(4000), 10**9]) for _ in range(200_000)]
    site.files = {f"{s}.zip": packed({f"{s}2017/{k:012d}.jpg": jpeg(k) for k in ks}) for s, ks in IMAGES.items()}
    labels = {f"annotations/instances_{split}2017.json": annotations(images) for split, images in IMAGES.items()}
    site.files["annotations.zip"] = packed(labels)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    address, parent = f"http://127.0.0.1:{server.server_port}", os.getpid()
    if os.fork() == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while os.getppid() == parent:
            threading.Event().wait(0.5)
        os._exit(0)
    server.socket.close()
    md5 = hashlib.md5(site.files["train.zip"]).hexdigest()
    found = Retrieval(
        (
            RemoteFile((f"{address}/annotations.zip",), 400, tuple((name, 1) for name in labels), unpacked=2000),
            RemoteFile((f"{address}/val.zip",), 2000, (("val2017", 2),), unpacked=2000),
            RemoteFile((f"{address}/train.zip",), 3000, (("train2017", 3),), unpacked=3000, md5=md5),
        ),
        counts=PublishedCounts(2, 3, 2),
    )
    real = sources.retrieval
    sources.retrieval = lambda target, options: found if ".coco" in target else real(target, options)
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        os.environ.pop(key, None)
    return address


def serve(folder: Path, run: Run) -> None:
    site_that_cuts()


CURRICULUM = ["curriculum=spbl", "runner.epochs=3", "curriculum.add_ratios=[0.5,1.0]"]
SHORT = [*FULL, "logger.tensorboard=false", "logger.report=false"]
TAIL = ["create_longtail_dataset", "paths.data=../data", "dataset.num_train=200", "max=20", "shortage=clip", "out=tail"]
TAIL += ["overwrite=true"]  # a split that is there is not replaced without it
NAMES = ["train", *(w for w in SMALL if not w.startswith("dataset.")), "dataset=csv", "dataset.file=labels.csv"]
NAMED = [*NAMES, "loss=bce", "runner.epochs=1", "paths.runs=runs"]
KINDS: dict[str, Kind] = {
    "train": Kind((*FULL,)),
    "train_often": Kind((*FULL, "runner.checkpoint_every_minutes=1e-9", "logger.every_steps=1")),
    "train_cache": Kind((*SHORT, "data.cache=true", "data.cache_dir=cache", "data.num_workers=2")),
    "train_curriculum": Kind((*SHORT, *CURRICULUM)),
    "train_ghm": Kind((*SHORT, "loss=ghm", "runner.checkpoint_every_minutes=1e-9")),
    "train_ranks": Kind((*SHORT, "runner.checkpoint_every_minutes=1e-9"), ranks=2),
    "train_rerun": Kind((*BRIEF, "rerun=true", "runner.checkpoint_every_minutes=1e-9"), given_run),
    "train_disk": Kind((*SHORT,), disk_mb=12),
    "draw": Kind(("prepare_data", "paths.data=data", "dataset.num_train=20", "dataset.num_val=8")),
    "sweep": Kind((*SHORT, "-m", "loss=bce,asl", "runner.epochs=1"), after=newest_sweep),
    "push": Kind(("push",), given_run, run_of),
    "export": Kind(("export", "out=model.pt2"), given_run, run_of),
    "report": Kind(("report",), given_run, run_of),
    "evaluate": Kind(("evaluate", "tune=thresholds", "tune_folds=2"), given_run, run_of),
    "tune_thresholds": Kind(("tune_thresholds",), given_run, run_of),
    "predict": Kind(
        ("predict", "photos", "format=csv", "out=found.csv", "annotated=seen"),
        lambda *given: (given_run(*given), photographs(*given))[0],
        run_of,
    ),
    "convert": Kind(
        ("convert_checkpoint", "theirs.pth", "model.name=test_resnet", "classes=names.txt", "out=mine"), published
    ),
    "shrink": Kind(
        ("prepare_data", "dataset=csv", "dataset.file=photos/labels.csv", "shrink=32", "workers=2", "out=small"),
        photographs,
    ),
    "longtail": Kind((*TAIL,)),
    "download": Kind(("prepare_data", "dataset=coco2017", "paths.data=data"), serve),
    "names": Kind((*NAMED,), named_table),
    "names_push": Kind(("push",), named_run, run_of),
}
