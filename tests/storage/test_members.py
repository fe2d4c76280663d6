"""Members of archives are read like files, and refused like files."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mltrain import storage
from mltrain.errors import DataError
from mltrain.pipeline.decode import read_image
from mltrain.pipeline.image_file import read_file
from mltrain.storage import archive as archive_module
from mltrain.storage import tables

from .made import make_parquet, make_tar, make_zip, names, row

FILES = ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/old/3.jpg", "größe.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k, file in enumerate(FILES):
        place = tmp_path / "files" / file
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 255, (30 + k, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place)
    return tmp_path / "files"


def same_as_files(archive: Path, folder: Path) -> None:
    for file in FILES:
        data = read_file(archive / file)
        assert data.tobytes() == (folder / file).read_bytes()
        assert data.flags.writeable, "torch warns of arrays that are not"
        np.testing.assert_array_equal(read_image(f"{archive}/{file}"), read_image(folder / file))
        assert storage.is_file(archive / file) and not storage.is_folder(archive / file)
        assert storage.state(archive / file).size == (folder / file).stat().st_size


def test_members_are_read_like_files(folder: Path, tmp_path: Path) -> None:
    packed = [
        make_tar(tmp_path / "a.tar", folder, FILES),
        make_zip(tmp_path / "deflated.ZIP", folder, FILES),
        make_zip(tmp_path / "stored.zip", folder, FILES, zipfile.ZIP_STORED),
    ]
    for archive in packed:
        same_as_files(archive, folder)
        assert sorted(storage.names_in(archive)) == names(folder)
        assert storage.names_in(archive / "dog") == ["old", "1.jpg"]
        walked = [f"{place}/{name}" for place, _, names in storage.walk(str(archive)) for name in names]
        assert sorted(walked) == sorted(f"{archive}/{file}" for file in FILES)
        assert storage.is_folder(archive) and storage.is_folder(archive / "dog/old")
        assert not storage.exists(archive / "mouse") and not storage.exists(archive / "cat/3.jpg")
        assert storage.exists(f"{archive}//cat/./1.jpg")


def test_a_folder_may_have_the_name_of_an_archive(folder: Path, tmp_path: Path) -> None:
    named = folder.rename(tmp_path / "photos.zip")
    inside = make_tar(named / "in.tar", named, FILES)
    np.testing.assert_array_equal(read_image(named / FILES[0]), read_image(inside / FILES[0]))


ENCODINGS = {
    "dictionary": {},
    "plain": {"use_dictionary": False},
    "delta": {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
    "snappy": {"compression": "snappy"},
}


@pytest.mark.parametrize("options", ENCODINGS.values(), ids=ENCODINGS)
def test_images_in_parquet_files(folder: Path, tmp_path: Path, options: dict[str, object]) -> None:
    images = [(folder / FILES[k % 4]).read_bytes() for k in range(11)]  # some are there twice
    images[3] = None  # type: ignore[call-overload]
    path = make_parquet(tmp_path / "a.parquet", images, **options)
    for k, image in enumerate(images):
        if image is None:
            assert not storage.exists(path / row(k))
        else:
            assert read_file(path / row(k)).tobytes() == image
    copied = (tmp_path / "a.parquet.mltrain-images").exists()
    assert copied == (options.get("compression") == "snappy"), "bytes that can be read in place are not copied"
    assert storage.is_table(path) and storage.names_in(path) == ["image"]


@pytest.mark.parametrize("kind", ["new_stream", "new_file"])
@pytest.mark.parametrize("compression", [None, "lz4"])
def test_images_in_arrow_files(folder: Path, tmp_path: Path, kind: str, compression: str | None) -> None:
    pa = pytest.importorskip("pyarrow")
    images = [(folder / FILES[k % 3]).read_bytes() + bytes([k]) for k in range(7)]
    table = pa.table(
        {"a": pa.array(images, pa.binary()), "b": pa.array(images[::-1], pa.large_binary()), "n": range(7)}
    )
    path = tmp_path / "x.arrow"
    with (
        pa.OSFile(str(path), "wb") as out,
        getattr(pa.ipc, kind)(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer,
    ):
        writer.write_table(table, max_chunksize=3)
    for k in range(7):
        assert read_file(f"{path}/a/{k:08d}").tobytes() == read_file(f"{path}/b/{6 - k:08d}").tobytes() == images[k]
    assert (tmp_path / "x.arrow.mltrain-images").exists() == (compression is not None)
    assert tables.count_rows(str(path)) == 7


def add(packed: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = len(data), kind, link
    packed.addfile(entry, io.BytesIO(data))


def test_links_in_a_tar_are_the_files_that_they_lead_to(tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as packed:
        add(packed, "a/1.jpg", b"one")
        add(packed, "b/hard.jpg", kind=tarfile.LNKTYPE, link="a/1.jpg")
        add(packed, "b/soft.jpg", kind=tarfile.SYMTYPE, link="../a/1.jpg")
        add(packed, "b/chain.jpg", kind=tarfile.SYMTYPE, link="soft.jpg")
        add(packed, "b/out.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add(packed, "b/circle.jpg", kind=tarfile.SYMTYPE, link="circle.jpg")
    for name in ("hard", "soft", "chain"):
        assert storage.read_bytes(path / f"b/{name}.jpg") == b"one"
        assert storage.same_file(path / "a/1.jpg", path / f"b/{name}.jpg")
    for name in ("out", "circle"):
        with pytest.raises(DataError, match=f"links.tar/b/{name}.jpg.*link that leads nowhere"):
            storage.read_bytes(path / f"b/{name}.jpg")


def test_names_that_lead_outside_are_left_out_and_the_last_of_a_name_counts(tmp_path: Path, caplog) -> None:
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as packed:
        for name, data in (
            ("../up.jpg", b"x"),
            ("/abs.jpg", b"x"),
            ("a/../b.jpg", b"x"),
            ("1.jpg", b"old"),
            ("./1.jpg", b"new"),
        ):
            add(packed, name, data)
    assert list(storage.walk(path)) == [(str(path), [], ["1.jpg"])]
    assert storage.read_bytes(path / "1.jpg") == b"new"
    assert "3 members left out, because their names lead outside the archive, such as '../up.jpg'" in caplog.text
    assert "1 name is there more than once, such as '1.jpg'" in caplog.text
    with pytest.raises(DataError, match=r"no member '../odd.tar'"):
        storage.read_bytes(f"{path}/../odd.tar")


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    stored = make_zip(tmp_path / "a.zip", folder, FILES[:2], zipfile.ZIP_STORED)
    for path, reason in (
        (stored / "cat/9.jpg", "the archive .*a.zip has no member 'cat/9.jpg'"),
        (stored / "cat", "it is a folder"),
        (stored, "it is an archive; name a file in it"),
    ):
        with pytest.raises(DataError, match=rf"^{path}: cannot read the file: {reason}"):
            read_image(path)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    (folder / "cut.jpg").write_bytes((folder / FILES[0]).read_bytes()[:400])
    (folder / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    bad = ["empty.jpg", "text.jpg", "cut.jpg", "page.eps"]
    for archive in (make_tar(tmp_path / "bad.tar", folder, bad), make_zip(tmp_path / "bad.zip", folder, bad)):
        for name in bad:
            with pytest.raises(DataError) as from_file:
                read_image(folder / name)
            with pytest.raises(DataError) as from_archive:
                read_image(archive / name)
            assert str(from_archive.value) == str(from_file.value).replace(str(folder), str(archive))


def test_damage_in_a_zip_is_noticed(folder: Path, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", folder, FILES[:1], zipfile.ZIP_STORED)
    data = path.read_bytes()
    image = (folder / FILES[0]).read_bytes()
    at = data.index(image) + len(image) // 2
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(DataError, match=r"checksum"):
        read_file(path / FILES[0])
    deflated = make_zip(tmp_path / "b.zip", folder, FILES[:1])
    data = deflated.read_bytes()
    deflated.write_bytes(data[:60] + b"\xff" * 40 + data[100:])
    with pytest.raises(DataError, match=r"b.zip/cat/1.jpg: cannot read the file: the archive .*b.zip is damaged there"):
        read_file(deflated / FILES[0])


def test_zip_members_that_are_not_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "a.zip", folder, FILES[:1], zipfile.ZIP_BZIP2)
    with pytest.raises(DataError, match=r"its compression \(method 12 of zip\) is not read; make the archive with zip"):
        read_file(path / FILES[0])
    path = make_zip(tmp_path / "b.zip", folder, FILES[:1])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the bit of encryption
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"it has a password"):
        read_file(path / FILES[0])
    (tmp_path / "zero").write_bytes(bytes(100_000))
    bomb = make_zip(tmp_path / "bomb.zip", tmp_path, ["zero"])
    monkeypatch.setattr(archive_module, "_MOST_INFLATED", 99_999)
    with pytest.raises(DataError, match=r"it would have 100,000 bytes"):
        read_file(bomb / "zero")
    monkeypatch.undo()
    data = bytearray(bomb.read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (50_000).to_bytes(4, "little")  # it claims to be smaller
    bomb.write_bytes(data)
    with pytest.raises(DataError, match=r"another size"):
        read_file(bomb / "zero")


@pytest.mark.parametrize(
    ("suffix", "program"), [("tar.gz", "gunzip --keep"), ("tgz", "gunzip --keep"), ("tar.xz", "unxz --keep")]
)
def test_a_compressed_tar_is_refused_with_the_way_out(folder: Path, tmp_path: Path, suffix: str, program: str) -> None:
    path = tmp_path / f"my photos.{suffix}"
    with tarfile.open(path, "w:xz" if suffix == "tar.xz" else "w:gz") as packed:
        packed.add(folder / FILES[0], FILES[0])
    with pytest.raises(DataError) as error:
        read_image(path / FILES[0])
    advice = f"{program} '{path}'"
    assert advice in str(error.value)
    assert os.system(advice) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "my photos.tar" / FILES[0]), read_image(folder / FILES[0]))


def test_an_archive_that_is_none_or_is_cut_short_is_refused(folder: Path, tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "whole.tar", folder, FILES).read_bytes()
    second = whole.index(b"./cat/2.jpg")
    broken = {
        "cut.tar": whole[: len(whole) // 3],
        "text.tar": b"no archive" * 100,
        "header.tar": whole[:second] + b"!" * 512 + whole[second + 512 :],
        "cut.zip": make_zip(tmp_path / "whole.zip", folder, FILES).read_bytes()[:900],
        "text.zip": b"no archive" * 100,
        "text.parquet": b"no archive" * 100,
        "text.arrow": b"no archive" * 100,
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: the archive is damaged or cut short"):
            storage.exists(tmp_path / name / FILES[0])
        assert not (tmp_path / f"{name}.mltrain-index").exists()
    with tarfile.open(tmp_path / "z.tar", "w:gz") as packed:
        packed.add(folder / FILES[0], FILES[0])
    with pytest.raises(DataError, match=r"is compressed .gzip., although its name does not say so") as error:
        storage.exists(tmp_path / "z.tar" / FILES[0])
    assert os.system(str(error.value).partition("once: ")[2]) == 0
    assert storage.exists(tmp_path / "z.tar" / FILES[0])


def test_few_archives_stay_open_and_threads_may_read_while_others_close(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(archive_module, "MOST_OPEN", 2)
    archives = [make_tar(tmp_path / f"{k}.tar", folder, FILES) for k in range(5)]
    expected = [(folder / file).read_bytes() for file in FILES]
    for archive in archives:
        storage.exists(archive)
    before = len(names(Path("/proc/self/fd"))) if Path("/proc/self/fd").exists() else None
    wrong: list[object] = []

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(60):
            archive, k = archives[generator.integers(5)], int(generator.integers(5))
            if storage.read_bytes(archive / FILES[k]) != expected[k]:
                wrong.append((archive, k))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(archive_module._opened) == 2
    if before is not None:
        assert len(names(Path("/proc/self/fd"))) <= before + 2, "files are closed"


def test_an_archive_that_changes_is_read_again(folder: Path, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", folder, FILES[:2])
    assert storage.exists(path / FILES[0]) and not storage.exists(path / FILES[2])
    make_tar(tmp_path / "new.tar", folder, FILES[2:]).replace(path)
    assert storage.exists(path / FILES[2]) and not storage.exists(path / FILES[0])
    path.unlink()
    with pytest.raises(DataError, match=r"No such file|Not a directory"):
        read_image(path / FILES[2])


def test_reading_where_the_system_has_no_preadv(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "preadv", raising=False)
    same_as_files(make_tar(tmp_path / "a.tar", folder, FILES), folder)


def test_reading_warns_of_nothing(folder: Path, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", folder, FILES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(read_file(path / FILES[0]))
        archive_module._opened.clear()
