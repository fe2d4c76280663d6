"""The index of an archive is made once, by one process, and kept where it can be."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from mltrain import storage
from mltrain.errors import DataError
from mltrain.storage import archive as archive_module
from mltrain.storage import index as index_module

from .made import make_parquet, make_tar, names, row


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for k in range(5):
        (tmp_path / f"{k}.jpg").write_bytes(b"%d" % k * 50)
    return make_tar(tmp_path / "photos" / "a.tar", tmp_path, [f"{k}.jpg" for k in range(5)])


def forget() -> None:
    archive_module._opened.clear()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the path of each archive that is indexed."""
    made: list[str] = []
    build = archive_module.KINDS[".tar"]

    def members(path: str, copy: Path | None) -> object:
        made.append(path)
        return build(path, copy)

    monkeypatch.setitem(archive_module.KINDS, ".tar", members)
    return made


def test_it_is_made_once_and_again_when_the_archive_changes(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    for _ in range(2):
        forget()
        assert storage.read_bytes(photos / "3.jpg") == b"3" * 50
    assert len(made) == 1 and Path(f"{photos}.mltrain-index").exists()
    os.utime(photos, ns=(1, 1))
    storage.exists(photos / "3.jpg")
    assert len(made) == 2
    content = Path(f"{photos}.mltrain-index").read_bytes()
    for broken in (
        content[:-3],
        content.replace(b'"version": 1', b'"version": 0'),
        b"",
        b"{}\n",
        b"[1]\nxyz",
        b"\xff" * 99,
    ):
        Path(f"{photos}.mltrain-index").write_bytes(broken)
        forget()
        assert storage.read_bytes(photos / "4.jpg") == b"4" * 50
        assert Path(f"{photos}.mltrain-index").read_bytes() == content
    assert len(made) == 8


def test_an_index_that_lies_does_not_lead_outside_the_archive(photos: Path) -> None:
    storage.exists(photos)
    forget()
    path = Path(f"{photos}.mltrain-index")
    index = index_module.Index(*_loaded(photos))
    member = index.find("3.jpg")
    assert member is not None
    offset = member.offset.to_bytes(8, "little")
    path.write_bytes(path.read_bytes().replace(offset, (1 << 60).to_bytes(8, "little")))
    with pytest.raises(DataError, match=r"a.tar/3.jpg: cannot read the file: the archive .* is damaged there"):
        storage.read_bytes(photos / "3.jpg")


def _loaded(photos: Path) -> tuple[object, str]:
    status = photos.stat()
    index = index_module._load(
        Path(f"{photos}.mltrain-index"), str(photos), {"version": 1, "size": status.st_size, "time": status.st_mtime_ns}
    )
    assert index is not None
    return index._records, str(photos)


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(
    photos: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    real = index_module.locked

    def locked(path: Path) -> object:
        if path.parent in closed:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(index_module, "locked", locked)
    made = counted(monkeypatch)
    closed = [photos.parent]
    for _ in range(2):
        forget()
        assert storage.read_bytes(photos / "1.jpg") == b"1" * 50
    assert names(photos.parent) == ["a.tar"] and len(made) == 1
    assert [name for name in names(tmp_path / "cache/mltrain/indexes") if name.endswith("-a.tar.mltrain-index")]
    closed.append(tmp_path / "cache/mltrain/indexes")
    os.utime(photos, ns=(1, 1))
    assert storage.read_bytes(photos / "1.jpg") == b"1" * 50
    assert "its index cannot be kept" in caplog.text and "Permission denied" in caplog.text
    compressed = make_parquet(photos.parent / "b.parquet", [b"x" * 500], compression="snappy")
    with pytest.raises(DataError, match=r"images are compressed .SNAPPY., .*no folder for a copy can be written"):
        storage.read_bytes(compressed / row(0))


def test_a_failed_attempt_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"nothing")
    with pytest.raises(DataError):
        storage.exists(tmp_path / "a.tar" / "1.jpg")
    assert names(tmp_path) == [".mltrain-index.lock", "a.tar"]


def read_in_process(path: str, queue: multiprocessing.Queue) -> None:
    queue.put(storage.read_bytes(path))


def test_processes_that_ask_at_once_share_one_index(photos: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=read_in_process, args=(f"{photos}/{k}.jpg", queue)) for k in range(4)]
    for process in processes:
        process.start()
    found = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {b"%d" % k * 50 for k in range(4)}
    assert names(photos.parent) == [".mltrain-index.lock", "a.tar", "a.tar.mltrain-index"]


def test_a_forked_process_reads_while_a_thread_of_its_parent_holds_the_lock(photos: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    storage.exists(photos)
    with archive_module._lock:
        process = context.Process(target=read_in_process, args=(f"{photos}/2.jpg", queue))
        process.start()
    assert queue.get(timeout=60) == b"2" * 50
    process.join()
