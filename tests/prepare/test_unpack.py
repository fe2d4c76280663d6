"""Promises of unpacking: what is in the archive arrives, what is bad in it does not."""

from __future__ import annotations

import io
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from mltrain.errors import DataError
from mltrain.prepare.unpack import Damaged, merge, unpack

FILES = {"set/a.jpg": b"a" * 3000, "set/deep/b.txt": b"b", "c.json": b"{}"}
Usage = namedtuple("Usage", "total used free")


def make_zip(path: Path, files: dict[str, bytes], *, mode: int = stat.S_IFREG | 0o644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            out.writestr(info, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], *, odd: tarfile.TarInfo | None = None) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
        if odd is not None:
            out.addfile(odd)
    return path


def odd_member(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo("set/odd")
    info.type, info.linkname = kind, target
    return info


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "in" / "out"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
def test_all_files_arrive_with_their_bytes(tmp_path: Path, out: Path, kind: str) -> None:
    archive = (make_zip if kind == "a.zip" else make_tar)(tmp_path / kind, FILES)
    assert unpack(archive, out) == 3
    assert tree(out) == FILES


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "set/../../evil", "set\\..\\..\\evil", "C:/evil"])
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_a_name_that_leads_outside_is_refused(tmp_path: Path, out: Path, kind: str, name: str) -> None:
    archive = (make_zip if kind == "a.zip" else make_tar)(tmp_path / kind, {"c.json": b"{}", name: b"evil"})
    with pytest.raises(Damaged, match=r"leads outside the folder.*evil"):
        unpack(archive, out)
    assert set(tree(tmp_path)) == {kind, "in/out/c.json"} and not Path("/tmp/evil").exists()


@pytest.mark.parametrize(
    "odd",
    [
        odd_member(tarfile.SYMTYPE, "/etc"),
        odd_member(tarfile.SYMTYPE, "../../../out"),
        odd_member(tarfile.SYMTYPE, "a.jpg"),
        odd_member(tarfile.LNKTYPE, "/etc/passwd"),
        odd_member(tarfile.LNKTYPE, "set/a.jpg"),
        odd_member(tarfile.CHRTYPE),
        odd_member(tarfile.BLKTYPE),
        odd_member(tarfile.FIFOTYPE),
    ],
    ids=lambda odd: f"{odd.type!r} {odd.linkname}",
)
def test_links_and_devices_are_refused(tmp_path: Path, out: Path, odd: tarfile.TarInfo) -> None:
    with pytest.raises(Damaged, match=r"a link or a device, 'set/odd'"):
        unpack(make_tar(tmp_path / "a.tar", FILES, odd=odd), out)
    assert not (out / "set" / "odd").exists() and not (out / "set" / "odd").is_symlink()


def test_a_file_behind_a_link_of_the_same_archive_stays_inside(tmp_path: Path, out: Path) -> None:
    """The usual way out: a link to a folder outside, then a file `through` it."""
    link = tarfile.TarInfo("set")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(link)
        through = tarfile.TarInfo("set/evil")
        through.size = 4
        tar.addfile(through, io.BytesIO(b"evil"))
    with pytest.raises(Damaged):
        unpack(tmp_path / "a.tar", out)
    assert not (tmp_path / "evil").exists()


def test_a_link_in_a_zip_is_refused(tmp_path: Path, out: Path) -> None:
    with pytest.raises(Damaged, match="a link or a device"):
        unpack(make_zip(tmp_path / "a.zip", {"odd": b"/etc"}, mode=stat.S_IFLNK | 0o777), out)
    assert tree(out) == {}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_that_is_cut_short_is_damaged(tmp_path: Path, out: Path, kind: str) -> None:
    archive = (make_zip if kind == "a.zip" else make_tar)(tmp_path / kind, FILES)
    archive.write_bytes(archive.read_bytes()[: 2000 if kind == "a.tar" else -30])
    with pytest.raises(Damaged):
        unpack(archive, out)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_an_archive_with_a_changed_byte_is_damaged(tmp_path: Path, out: Path, kind: str) -> None:
    archive = (make_zip if kind == "a.zip" else make_tar)(tmp_path / kind, FILES)
    flip(archive)
    with pytest.raises(Damaged):
        unpack(archive, out)


def test_a_web_page_instead_of_an_archive_is_reported(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a.zip").write_text("\n<!doctype html><title>Please log in</title>")
    with pytest.raises(Damaged, match="it is a web page"):
        unpack(tmp_path / "a.zip", out)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_an_archive_that_unpacks_to_more_than_the_disk_has_is_refused(
    tmp_path: Path, out: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = (make_zip if kind == "a.zip" else make_tar)(tmp_path / kind, {"bomb": bytes(10**6)})
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**6, 0, 10**6 - 1))
    with pytest.raises(DataError, match=r"unpacking it needs 1.0 MB in .*, and 1000.0 kB are free"):
        unpack(archive, out)
    assert tree(out) == {}


def test_merge_joins_folders_and_replaces_files(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for folder, names in ((new, ["a/x", "a/b/y", "z"]), (old, ["a/x", "a/w"])):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(folder.name)
    merge(new, old)
    assert tree(old) == {"a/x": b"new", "a/b/y": b"new", "z": b"new", "a/w": b"old"} and tree(new) == {}
    (new / "w").mkdir()
    (old / "w").write_text("in the way")
    with pytest.raises(DataError, match="this file has the name of a folder"):
        merge(new, old)
