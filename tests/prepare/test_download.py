"""Promises of downloads, against a server that cuts, refuses, changes and stalls."""

from __future__ import annotations

import errno
import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain.errors import DataError
from mltrain.prepare import download as module
from mltrain.prepare.download import download
from tests.prepare.conftest import Site

DATA = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
OTHER = np.random.default_rng(1).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def waits(site: Site) -> list[float]:
    site.files = {"a.zip": DATA}
    return []


def get(site: Site, folder: Path, waits: list[float], *files: str, **options: Any) -> bytes:
    place = folder / "a.zip"
    download([site.url(file) for file in files or ("a.zip",)], place, sleep=waits.append, **options)
    assert [path.name for path in folder.iterdir()] == ["a.zip"]
    return place.read_bytes()


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(site: Site, tmp_path: Path, waits: list[float]) -> None:
    assert get(site, tmp_path, waits) == DATA
    assert site.ranges_asked() == [None] and waits == []


@pytest.mark.parametrize("etag", ['"1"', None, 'W/"1"'])
def test_cut_connections_are_continued_where_they_broke(
    site: Site, tmp_path: Path, waits: list[float], etag: str | None
) -> None:
    site.cuts, site.etag, site.if_range = [100_000, 50_000, 0, 120_000], etag, etag == '"1"'
    assert get(site, tmp_path, waits) == DATA
    assert site.ranges_asked() == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=270000-"]
    assert waits == [1, 1, 1, 1]


def test_without_range_support_a_cut_download_starts_again(
    site: Site, tmp_path: Path, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site.cuts, site.ranges = [100_000, 40_000], False
    assert get(site, tmp_path, waits) == DATA
    assert "cannot continue a download" in caplog.text and len(site.asked) == 3


@pytest.mark.parametrize(("if_range", "longer"), [(True, b""), (True, b"more"), (False, b"more")])
def test_a_file_that_changed_meanwhile_is_not_glued_to_its_old_half(
    site: Site, tmp_path: Path, waits: list[float], if_range: bool, longer: bytes
) -> None:
    site.cuts, site.if_range = [100_000] + [0] * 20, if_range
    with pytest.raises(DataError, match="closed after"):
        get(site, tmp_path, waits, tries=2)
    site.cuts, site.etag, site.files = [], '"2"', {"a.zip": OTHER + longer}
    assert get(site, tmp_path, waits) == OTHER + longer


def test_a_missing_file_is_not_asked_for_twice_and_the_next_address_is_tried(
    site: Site, tmp_path: Path, waits: list[float]
) -> None:
    assert get(site, tmp_path, waits, "gone.zip", "a.zip") == DATA
    assert [path for path, _ in site.asked] == ["/gone.zip", "/a.zip"] and waits == []
    with pytest.raises(DataError, match=r"(?s)gone.zip: the server says 404.*away.zip: .*404.*Or bring the file from"):
        get(site, tmp_path, waits, "gone.zip", "away.zip")


def test_a_server_in_trouble_is_asked_again_after_growing_pauses(
    site: Site, tmp_path: Path, waits: list[float]
) -> None:
    site.says = [503, 500, 429]
    assert get(site, tmp_path, waits) == DATA
    assert waits == [1, 2, 4]


def test_what_arrived_before_giving_up_is_continued_by_the_next_call(
    site: Site, tmp_path: Path, waits: list[float]
) -> None:
    site.cuts = [100_000] + [0] * 20
    with pytest.raises(DataError, match=r"closed after 100.0 kB of 300.0 kB(?s:.)*100.0 kB that arrived are kept"):
        get(site, tmp_path, waits, tries=3)
    assert waits == [1, 1, 2] and (tmp_path / "a.zip.part").read_bytes() == DATA[:100_000]
    site.cuts = []
    assert get(site, tmp_path, waits) == DATA
    assert site.ranges_asked()[-1] == "bytes=100000-"


def test_a_part_that_has_all_bytes_is_taken(site: Site, tmp_path: Path, waits: list[float]) -> None:
    site.cuts = [100_000] + [0] * 20
    with pytest.raises(DataError):
        get(site, tmp_path, waits, tries=1)
    (tmp_path / "a.zip.part").write_bytes(DATA)
    site.cuts = []
    assert get(site, tmp_path, waits) == DATA and site.ranges_asked()[-1] == "bytes=300000-"


def test_a_part_of_unknown_origin_is_not_continued(site: Site, tmp_path: Path, waits: list[float]) -> None:
    (tmp_path / "a.zip.part").write_bytes(OTHER[:1000])
    assert get(site, tmp_path, waits) == DATA and site.ranges_asked() == [None]


def test_a_server_that_falls_silent_counts_as_cut(site: Site, tmp_path: Path, waits: list[float]) -> None:
    site.pause = 2.0
    with pytest.raises(DataError, match="no answer in time"):
        get(site, tmp_path, waits, tries=2, timeout=0.1)


def test_without_a_network_each_address_is_tried_once(
    tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*words: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        DataError, match=r"(?s)http://a.example.*no connection to the internet.*http://b.example.*proxy"
    ):
        download(["http://a.example/a.zip", "http://b.example/a.zip"], tmp_path / "a.zip", sleep=waits.append)
    assert waits == [] and list(tmp_path.iterdir()) == []


def test_too_little_space_is_found_before_the_first_byte(
    site: Site, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(DataError, match=r"a.zip needs 300.0 kB in .*, and 1.0 kB are free.*dataset.root"):
        get(site, tmp_path, waits)
    assert not (tmp_path / "a.zip.part").exists()


def test_a_full_disk_is_reported_and_the_download_continues_later(
    site: Site, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(response: Any, stream: Any, meter: Any) -> None:
        stream.write(response.read(100_000))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_receive", full)
        with pytest.raises(DataError, match=r"the disk is full.*Finished work stays"):
            get(site, tmp_path, waits)
    assert get(site, tmp_path, waits) == DATA
    assert site.ranges_asked() == [None, "bytes=100000-"] and waits == []


def test_a_download_that_was_killed_goes_on_where_it_was(site: Site, tmp_path: Path, waits: list[float]) -> None:
    site.slow = 0.05
    code = (
        "import sys, pathlib; from mltrain.prepare.download import download; "
        "download(sys.argv[1:2], pathlib.Path(sys.argv[2]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, site.url("a.zip"), str(tmp_path / "a.zip")])
    part = tmp_path / "a.zip.part"
    end = time.monotonic() + 20
    while time.monotonic() < end and not (part.exists() and part.stat().st_size):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    have = part.stat().st_size
    assert 0 < have < len(DATA) and part.read_bytes() == DATA[:have]
    site.slow = 0.0
    assert get(site, tmp_path, waits) == DATA
    assert site.ranges_asked() == [None, f"bytes={have}-"]


def test_progress_is_plain_lines_in_a_log(
    site: Site, tmp_path: Path, waits: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrain.progress.LINE_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    get(site, tmp_path, waits)
    last = [record.getMessage() for record in caplog.records][-1]
    assert last.startswith("a.zip: 300.0 kB of 300.0 kB, 100%, ") and last.endswith("/s, 0:00 left")
