"""Promises of tools/prepare_data.py: from a server's archives to a data set that its reader reads."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from mltrain.cli import read
from mltrain.commands.prepare_data import COMMAND, Options, prepare_data
from mltrain.datasets import sources
from mltrain.datasets.sources import PublishedCounts, RemoteFile, Retrieval
from mltrain.errors import ConfigError, DataError
from mltrain.prepare import fetch as module
from tests.prepare.conftest import Site
from tests.prepare.test_unpack import tree

ROOT = Path(__file__).resolve().parents[2]
Usage = namedtuple("Usage", "total used free")
IMAGES = {"train": [1, 2, 3], "val": [4, 5]}


def jpeg(k: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (60 + k, 40), (40 * k, 90, 30)).save(out, "JPEG")
    return out.getvalue()


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def annotations(images: list[int]) -> bytes:
    data = {
        "images": [{"id": k, "file_name": f"{k:012d}.jpg"} for k in images],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"image_id": k, "category_id": 1 + k % 2} for k in images],
    }
    return json.dumps(data).encode()


def config(name: str, data: Path) -> DictConfig:
    """Return the config that the tool composes, without the time that takes."""
    file = OmegaConf.load(ROOT / "configs" / "dataset" / f"{name}.yaml")
    return OmegaConf.create({"paths": {"data": str(data)}, "dataset": file.get("dataset", file)})


@pytest.fixture
def coco(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A small COCO on the server; the call prepares it and returns dataset.root."""
    site.files["annotations.zip"] = packed(
        {f"annotations/instances_{split}2017.json": annotations(images) for split, images in IMAGES.items()}
    )
    for split, images in IMAGES.items():
        site.files[f"{split}.zip"] = packed({f"{split}2017/{k:012d}.jpg": jpeg(k) for k in images})
    md5 = hashlib.md5(site.files["train.zip"]).hexdigest()
    found = Retrieval(
        (
            RemoteFile(
                (site.url("annotations.zip"),),
                400,
                (("annotations/instances_train2017.json", 1), ("annotations/instances_val2017.json", 1)),
                unpacked=2000,
            ),
            RemoteFile((site.url("val.zip"),), 2000, (("val2017", 2),), unpacked=2000),
            RemoteFile(
                (site.url("gone/train.zip"), site.url("train.zip")), 3000, (("train2017", 3),), unpacked=3000, md5=md5
            ),
        ),
        counts=PublishedCounts(2, 3, 2),
    )
    monkeypatch.setattr(sources, "retrieval", lambda target, options: found)
    root = tmp_path / "coco"

    def run(**options: bool) -> Path:
        prepare_data(config("coco2017", tmp_path), Options(**options))
        return root

    return run


def whole(root: Path) -> bool:
    found = {name for name in tree(root) if not name.startswith("downloads/")}
    listed = {f"{split}2017/{k:012d}.jpg" for split, images in IMAGES.items() for k in images}
    return found == listed | {f"annotations/instances_{split}2017.json" for split in IMAGES}


def store(root: Path) -> set[str]:
    return {place.name for place in (root / "downloads").iterdir() if place.name != ".lock"}


ARCHIVES = {"annotations.zip", "val.zip", "train.zip"}


def test_everything_is_downloaded_unpacked_and_verified_and_the_second_time_nothing_is_asked(
    site: Site, coco: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = coco()
    assert whole(root) and store(root) == {*ARCHIVES, "checksums.sha256"}
    assert [path for path, _ in site.asked] == ["/annotations.zip", "/val.zip", "/gone/train.zip", "/train.zip"]
    assert "coco2017 is complete: train 3, val 2 images, as published, every file exists" in caplog.text
    lines = (root / "downloads" / "checksums.sha256").read_text().splitlines()
    assert lines[2] == f"{hashlib.sha256(site.files['train.zip']).hexdigest()}  train.zip" and len(lines) == 3
    before = tree(root)
    assert coco() == root and tree(root) == before and len(site.asked) == 4


def test_only_what_is_missing_is_downloaded(site: Site, coco: Callable[..., Path]) -> None:
    root = coco()
    shutil.rmtree(root / "val2017")
    (root / "downloads" / "val.zip").unlink()
    site.asked.clear()
    assert whole(coco()) and [path for path, _ in site.asked] == ["/val.zip"]
    next((root / "train2017").iterdir()).unlink()
    assert whole(coco()) and len(site.asked) == 1  # from the archive that is here


def test_archives_go_when_they_are_not_to_be_kept(coco: Callable[..., Path]) -> None:
    root = coco(keep_archives=False)
    assert whole(root) and store(root) == {"checksums.sha256"}


def test_an_archive_that_a_kill_left_behind_goes_the_next_time(site: Site, coco: Callable[..., Path]) -> None:
    root = coco()  # as a kill leaves it: everything is in its place, the archives too
    site.asked.clear()
    assert whole(coco(keep_archives=False)) and store(root) == {"checksums.sha256"} and not site.asked


def test_a_wrong_checksum_unpacks_nothing_and_the_next_call_downloads_again(
    site: Site, coco: Callable[..., Path], tmp_path: Path
) -> None:
    right = site.files["train.zip"]
    site.files["train.zip"] = right[:-1] + b"x"
    with pytest.raises(
        DataError, match=r"train.zip: has the wrong checksum: MD5 \w+, published is \w+.*train.zip.wrong"
    ):
        coco()
    assert not (tmp_path / "coco" / "train2017").exists()
    assert store(tmp_path / "coco") == {"annotations.zip", "val.zip", "train.zip.wrong", "checksums.sha256"}
    site.files["train.zip"] = right
    assert whole(coco())


def test_a_file_that_is_not_the_one_first_downloaded_is_refused(site: Site, coco: Callable[..., Path]) -> None:
    root = coco(keep_archives=False)
    site.files["val.zip"] = packed({f"val2017/{k:012d}.jpg": jpeg(9) for k in IMAGES["val"]})
    with pytest.raises(DataError, match=r"val.zip: differs from the first download.*delete that line"):
        coco(again=True)
    assert whole(root)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"val2017/000000000004.jpg": b"x", "../evil": b"x"}, "leads outside the folder, '../evil'"),
        ({"val2017/000000000004.jpg": b"x"}, "val2017 has 1 files, expected are 2"),
        ({"images/1.jpg": b"x"}, "there is no val2017"),
    ],
)
def test_a_wrong_archive_leaves_nothing(
    site: Site, coco: Callable[..., Path], tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    site.files["val.zip"] = packed(files)
    with pytest.raises(DataError, match=reason):
        coco()
    root = tmp_path / "coco"
    assert {place.name for place in root.iterdir()} == {"annotations", "downloads"} and not (tmp_path / "evil").exists()
    assert store(root) == {"annotations.zip", "val.zip.wrong", "checksums.sha256"}


def test_an_interruption_while_files_are_moved_is_made_good_without_a_download(
    site: Site, coco: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(source: Path, target: Path) -> None:
        if (source / "train2017").is_dir():
            for path in [*(source / "train2017").iterdir()][1:]:
                path.unlink()
            raise KeyboardInterrupt
        real(source, target)

    real = module.merge
    with monkeypatch.context() as patch:
        patch.setattr(module, "merge", half)
        with pytest.raises(KeyboardInterrupt):
            coco()
    root = tmp_path / "coco"
    shutil.copytree(root / "val2017", root / "train2017")  # as many files as one could wish, but unfinished
    (root / "train2017" / "more.jpg").touch()
    asked = len(site.asked)
    coco()
    assert len(site.asked) == asked and not list((root / "downloads").glob("*.unpacking"))
    assert (root / "train2017" / "000000000001.jpg").read_bytes() == jpeg(1)


@pytest.mark.parametrize("place", [".unpacking", ".unpacked", ".part.json", "checksums.sha256"])
def test_a_kill_at_its_end_leaves_nothing_that_stays(
    coco: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Killed before the mark, the folder of an archive or the note of a download is removed, or a checksum is noted."""

    class Killed(BaseException):
        pass

    root, rmtree, unlink, dead = tmp_path / "coco", shutil.rmtree, Path.unlink, []

    def instead(call: Callable[..., None], path: Path, *arguments: Any, **named: Any) -> None:
        marked = place != ".unpacked" or list((root / "downloads").glob("*.unpacking"))
        if dead or (path.name.endswith(place) and path.exists() and marked):
            dead.append(path)  # nothing runs after a kill
            raise Killed
        call(path, *arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "unlink", lambda path, **named: instead(unlink, path, **named))
        patch.setattr(shutil, "rmtree", lambda path, **named: instead(rmtree, path, **named))
        if place == "checksums.sha256":
            (root / "downloads").mkdir(parents=True)
            (root / "downloads" / place).write_text("0123456789abcdef")  # cut short, as an earlier version left it
            patch.setattr(module, "write_text", lambda path, text: instead(Path.write_text, path, text))
        coco()
    coco()
    assert whole(root) and store(root) == {*ARCHIVES, "checksums.sha256"}


def test_a_full_disk_while_unpacking_leaves_the_archive_and_no_half_of_it(
    site: Site, coco: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(archive: Path, folder: Path) -> int:
        (folder / "val2017").mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "unpack", full)
        with pytest.raises(DataError, match=r"annotations.zip: the disk is full .*choose another disk"):
            coco()
    assert store(tmp_path / "coco") == {"annotations.zip", "checksums.sha256"}
    assert whole(coco()) and len(site.asked) == 4


def test_too_little_space_is_reported_with_numbers_before_any_request(
    site: Site, coco: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**6, 10**6 - 9000, 9000))
    message = (
        r"needs about 12.4 kB below /.*9.0 kB are free; with keep_archives=false 10.0 kB are enough.*dataset.root="
    )
    with pytest.raises(DataError, match=message):
        coco()
    assert site.asked == []


def test_counts_that_differ_from_the_published_are_an_error(
    coco: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sources.retrieval("", {})
    monkeypatch.setattr(sources, "retrieval", lambda target, options: found._replace(counts=PublishedCounts(2, 4, 2)))
    with pytest.raises(DataError, match=r"coco2017/train: 3 images, but 4 are published.*again=true"):
        coco()


def test_download_false_only_checks(site: Site, coco: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)4 of 4 expected paths are missing.*cocodataset.org/#download"):
        coco(download=False)
    assert site.asked == [] and not (tmp_path / "coco").exists()


def test_two_at_a_time_are_refused(coco: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    code = (
        "import sys; from pathlib import Path; from mltrain.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
    )
    lock = tmp_path / "coco" / "downloads" / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=f"process {holder.pid} on .* is downloading"):
            coco()
    assert whole(coco())


# -- other layouts ---------------------------------------------------------------------------------------------------


def voc_tar(part: str, ids: list[str]) -> bytes:
    files = {f"VOCdevkit/VOC2007/ImageSets/Main/{part}.txt": "".join(f"{i}\n" for i in ids).encode()}
    for image in ids:
        files[f"VOCdevkit/VOC2007/Annotations/{image}.xml"] = (
            b"<annotation><object><name>cat</name><difficult>0</difficult></object></annotation>"
        )
        files[f"VOCdevkit/VOC2007/JPEGImages/{image}.jpg"] = jpeg(1)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_archives_that_share_folders_are_joined_and_a_copy_laid_out_otherwise_is_known(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for part, ids in (("trainval", ["000001", "000003"]), ("test", ["000002"])):
        site.files[f"{part}.tar"] = voc_tar(part, ids)
        below = "VOCdevkit/VOC2007"
        gives = ((f"{below}/ImageSets/Main/{part}.txt", 1), (f"{below}/Annotations", len(ids)))
        made.append(RemoteFile((site.url(f"{part}.tar"),), 10_000, gives, unpacked=10_000))
    monkeypatch.setattr(
        sources, "retrieval", lambda target, options: Retrieval(tuple(made), counts=PublishedCounts(20, 2, 1))
    )
    prepare_data(config("voc2007", tmp_path), Options())
    assert len(site.asked) == 2 and len(list((tmp_path / "voc/VOCdevkit/VOC2007/JPEGImages").iterdir())) == 3
    prepare_data(config("voc2007", tmp_path), Options())
    (tmp_path / "other").mkdir()
    (tmp_path / "voc" / "VOCdevkit").rename(tmp_path / "other" / "voc")
    prepare_data(config("voc2007", tmp_path / "other"), Options())
    assert len(site.asked) == 2


def test_a_file_that_is_no_archive_goes_to_its_place(site: Site, tmp_path: Path) -> None:
    site.files["a.gz"] = b"12345"
    source = RemoteFile((site.url("a.gz"),), 5, (("a.gz", 1),), into="MNIST/raw", md5=hashlib.md5(b"12345").hexdigest())
    assert not module.is_there(source, tmp_path)
    module.fetch("mnist", [source], tmp_path)
    assert module.is_there(source, tmp_path) and (tmp_path / "MNIST" / "raw" / "a.gz").read_bytes() == b"12345"


def test_a_web_page_in_place_of_a_file_is_refused(site: Site, tmp_path: Path) -> None:
    site.files["a.csv"] = b"\n<!DOCTYPE html><title>Please log in</title>"
    source = RemoteFile((site.url("a.csv"),), 5, (("a.csv", 1),))
    with pytest.raises(DataError, match="is a web page"):
        module.fetch("mine", [source], tmp_path)
    assert not module.is_there(source, tmp_path)


def test_files_to_fetch_by_hand_are_reported_and_the_rest_downloaded(
    site: Site, coco: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = sources.retrieval("", {})._replace(by_hand="Ask the authors for the images.", counts=None)
    monkeypatch.setattr(sources, "retrieval", lambda target, options: found._replace(files=found.files[:2]))
    with pytest.raises(DataError, match=r"(?s)missing  .*train2017.*\nAsk the authors for the images."):
        coco()
    assert (tmp_path / "coco" / "val2017").is_dir()


# -- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs" / "dataset").glob("*.yaml")))
def test_every_dataset_config_has_a_plan_that_fits_its_reader(name: str, tmp_path: Path) -> None:
    cfg = config(name, tmp_path)
    section: Any = OmegaConf.to_container(cfg.dataset, resolve=True)
    found = sources.retrieval(section["_target_"], section)
    own = {"auto", "celeba", "coco_files", "csv", "cvat", "digits", "folder", "hf", "json", "list", "parquet", "shapes"}
    own |= {"voc_files", "webdataset", "yolo", "chestxray14", "class_lists", "labelme", "terse_gt"}
    assert (found == Retrieval()) == (name in own)
    if name in own:
        return
    with pytest.raises(DataError) as caught:
        prepare_data(cfg, Options(download=False))
    text = str(caught.value)
    assert "missing" in text and ("://" in text or "torchvision" in text)
    assert ("mltrain prepare_data" in text) == bool(found.files)
    # Each file that the reader misses in the folders of a source is given by that source.
    given = {str(Path(section["root"], each.into, path)) for each in found.files for path, _ in each.gives}
    missed = {line.split("missing  ")[1] for line in text.splitlines() if "missing  " in line}
    if found.files and not found.by_hand:
        assert [path for path in missed if not any(f"{path}.gz".startswith(place) for place in given)] == []


def test_published_checksums_are_those_of_torchvision() -> None:
    from torchvision.datasets import CIFAR10, CIFAR100, MNIST
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    assert {(s.name, s.md5) for s in sources.MNIST} == set(MNIST.resources)
    assert (sources.CIFAR10[0].urls[0], sources.CIFAR10[0].md5) == (CIFAR10.url, CIFAR10.tgz_md5)
    assert (sources.CIFAR100[0].urls[0], sources.CIFAR100[0].md5) == (CIFAR100.url, CIFAR100.tgz_md5)
    for file, name in zip(sources.VOC["07+12"], ("2007", "2007-test", "2012"), strict=True):
        official = DATASET_YEAR_DICT[name]
        assert (file.urls[0], file.md5) == (official["url"], official["md5"])


# -- the command line ------------------------------------------------------------------------------------------------


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "prepare_data.py"), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_connection_it_ends_with_one_message(tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9"
    done = run("dataset=cifar10", f"dataset.root={tmp_path}", http_proxy=closed, https_proxy=closed, no_proxy="")
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert "cifar-10-python.tar.gz could not be downloaded:\n  https://www.cs.toronto.edu" in done.stderr
    assert "the connection was refused" in done.stderr


def test_ctrl_c_says_that_the_same_command_goes_on(site: Site, tmp_path: Path) -> None:
    site.files["train.zip"], site.slow = bytes(300_000), 0.05
    code = (
        "import runpy, sys\n"
        "from mltrain.datasets import sources\n"
        "_, url, *sys.argv = sys.argv\n"
        "source = sources.RemoteFile((url,), 300_000, (('train2017', 3),), unpacked=1000)\n"
        "sources.retrieval = lambda target, options: sources.Retrieval((source,))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    tool = str(ROOT / "tools" / "prepare_data.py")
    child = subprocess.Popen(
        [sys.executable, "-c", code, site.url("train.zip"), tool, "dataset=coco2017", f"dataset.root={tmp_path}"],
        stderr=subprocess.PIPE,
        text=True,
        # where the tests themselves run in the background, SIGINT may be ignored, which a child inherits
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    part = tmp_path / "downloads" / "train.zip.part"
    end = time.monotonic() + 30
    while time.monotonic() < end and not (part.exists() and part.stat().st_size):
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    stderr = child.communicate()[1]
    assert child.returncode == 130 and "Traceback" not in stderr, stderr
    assert stderr.endswith("everything done so far is kept; repeat the command to go on\ninterrupted\n")
    assert 0 < part.stat().st_size < 300_000


def test_help_needs_no_torch_and_a_misspelt_option_is_named() -> None:
    code = "import sys, runpy; sys.modules['torch'] = None; sys.argv = ['t', '--help']; runpy.run_path(sys.stdin.read(), run_name='__main__')"  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", code], input=str(ROOT / "tools" / "prepare_data.py"), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "keep_archives=true" in done.stdout and "voc0712" in done.stdout
    with pytest.raises(ConfigError, match="did you mean keep_archives"):
        read(COMMAND, ["dataset=coco", "keep_archive=false"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=x"], "add shrink=SIZE"),
        (["shrink=0"], "shrink=0: must be int | null of at least 1"),
        (["shrink=9", "quality=0"], "quality=0: must be int from 1 to 100"),
        (["again=true", "download=false"], "choose one"),
        (["shrink=big"], "shrink"),
    ],
)
def test_options_that_make_no_sense_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(COMMAND, ["dataset=coco", *words])
