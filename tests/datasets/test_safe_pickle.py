"""Promises of the reader of other people's pickles."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain import safe_pickle
from mltrain.errors import DataError
from mltrain.safe_pickle import read_pickle

PLAIN: dict[str, Any] = {
    "counts": np.array([3, 1, 2]),
    "table": np.arange(6.0).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "small": np.array([0, 1, 255], dtype=np.uint8),
    "truth": np.array([True, False]),
    "rows": [np.array([0, 1]), np.array([1, 1])],
    "classes": {np.int64(3), np.int64(70)},
    "values": [1, -70000, 2.5, True, False, None, "x", "é\u4e2d", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), 10**15],
    "empty": [[], {}],
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("old_name", [False, True])
def test_plain_data_equals_what_pickle_loads(tmp_path: Path, protocol: int, old_name: bool) -> None:
    data = pickle.dumps(PLAIN, protocol=protocol)
    if old_name and protocol < 4:  # as NumPy 1 wrote it
        data = data.replace(b"cnumpy._core.", b"cnumpy.core.")
        assert b"numpy.core." in data and b"numpy._core." not in data
    (tmp_path / "x.pkl").write_bytes(data)
    found = read_pickle(tmp_path / "x.pkl")
    assert same(found, PLAIN)
    assert {type(item) for item in found["classes"]} == {int}


def test_an_array_that_appears_twice_is_one(tmp_path: Path) -> None:
    array = np.arange(3)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([array, array], protocol=2))
    first, second = read_pickle(tmp_path / "x.pkl")
    assert first is second and first.tolist() == [0, 1, 2]


class Payload:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def malicious(mark: Path) -> dict[str, bytes]:
    """Pickles that would make the file `mark`, or that ask for what is not data."""
    shell = f"touch {mark}"
    python = f"open({str(mark)!r}, 'w').close()"
    return {
        "os.system": pickle.dumps(Payload(os.system, shell), protocol=2),
        "os.system, protocol 0": pickle.dumps(Payload(os.system, shell), protocol=0),
        "os.system, protocol 4": pickle.dumps({"a": [Payload(os.system, shell)]}, protocol=4),
        "eval": pickle.dumps(Payload(eval, python), protocol=2),
        "numpy.load": pickle.dumps(Payload(np.load, str(mark)), protocol=2),
        "memmap": pickle.dumps(Payload(np.memmap, str(mark), "u1", "w+", 0, 1), protocol=2),
        "a name inside an allowed one": b"\x80\x02cnumpy\ndtype.__init__\n.",
        "a name that looks allowed": b"\x80\x02cnumpy.core.multiarray\nset\n.",
        "another class": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\ntR.",
        "instance": b"\x80\x02(S'" + shell.encode() + b"'\nios\nsystem\n.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent id": b"\x80\x02Px\n.",
        "attributes": b"\x80\x02c_codecs\nencode\n}X\x08\x00\x00\x00__code__Nsb.",
        "class": pickle.dumps(collections.OrderedDict, protocol=2),
        "objects in an array": pickle.dumps(np.array([Payload(os.system, shell)], dtype=object), protocol=2),
        "records": pickle.dumps(np.zeros(2, dtype=[("a", "i4")]), protocol=2),
        "a codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        "what is called is data": b"\x80\x02K\x01K\x02\x85R.",
    }


@pytest.mark.parametrize("kind", malicious(Path("x")))
def test_a_pickle_of_more_than_data_is_refused_and_not_executed(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "executed"
    file = tmp_path / "class_freq.pkl"
    file.write_bytes(malicious(mark)[kind])
    with pytest.raises(DataError, match="refused, and nothing of it was executed") as error:
        read_pickle(file)
    assert str(error.value).startswith(f"{file}: ")
    assert not mark.exists()


def test_the_payloads_would_work_in_pickle(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    mark = tmp_path / "executed"
    for kind in ("os.system", "eval"):
        pickle.loads(malicious(mark)[kind])
        assert mark.exists()
        mark.unlink()


def test_a_refused_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Payload(eval, "1"), protocol=2))
    with pytest.raises(DataError, match=r"it asks for '__builtin__\.eval'"):
        read_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(PLAIN, protocol=2)[:-200],
        b"\x80\x02.",  # nothing on the stack
        b"\x80\x02h\x05.",  # remembers nothing
        b"\x80\x02]K\x01s.",  # an item set in a list
        b"\x80\x02}]K\x01s.",  # a list as a key
        b"\x80\x02}(K\x01u.",  # a key without a value
        b"\x80\x02t.",  # no mark
    ],
)
def test_a_broken_pickle_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(DataError, match="broken pickle"):
        read_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("data", [b"", b"2008_000023\n", pickle.dumps([1], protocol=0)])
def test_a_file_that_is_no_pickle_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(DataError, match="does not begin like a pickle of protocol 2 or later"):
        read_pickle(tmp_path / "x.pkl")


def wrong_size() -> bytes:
    """An array that claims more numbers than it has bytes."""
    data = pickle.dumps(np.arange(3), protocol=3)
    at = data.index(b"K\x03\x85")  # its shape, (3,)
    return data[:at] + b"J\xff\xff\xff\x7f\x85" + data[at + 3 :]


@pytest.mark.parametrize(
    "data",
    [
        wrong_size(),
        b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",  # bytes of 2**60
        b"\x80\x02X" + struct.pack("<I", 2**31) + b"x.",  # text of 2 GiB
        b"\x80\x02K\x01r" + struct.pack("<I", 2**32 - 1) + b".",  # the C unpickler allocates a table for this index
        b"\x80\x02" + b"]q\x00" + b"(h\x00h\x00l" * 5 + b".",
    ],
    ids=["array", "bytes", "text", "memo", "instruction"],
)
def test_a_bomb_allocates_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(data)
    tracemalloc.start()
    with contextlib.suppress(DataError):
        assert read_pickle(tmp_path / "x.pkl") == 1  # the memo index alone is no crime
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_copies_and_instructions_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.pkl"
    text = b"X" + struct.pack("<I", 1000) + b"x" * 1000 + b"q\x00"
    latin = b"X\x06\x00\x00\x00latin1q\x01"
    file.write_bytes(b"\x80\x02](" + text + latin + b"c_codecs\nencode\nh\x00h\x01\x86R" * 30 + b"e.")
    assert read_pickle(file)[2:] == [b"x" * 1000] * 30
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 20_000)
    with pytest.raises(DataError, match="builds more than 20,000 bytes"):
        read_pickle(file)
    monkeypatch.setattr(safe_pickle, "MAX_INSTRUCTIONS", 10)
    with pytest.raises(DataError, match="more than 10 instructions"):
        read_pickle(file)
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="at most 100, so it is not read"):
        read_pickle(file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_pickle(tmp_path / "none.pkl")
