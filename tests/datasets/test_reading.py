"""Promises of what the readers share: each mistake is named with its file, line and value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mltrain.datasets.reading import (
    check_choice,
    read_class_names,
    read_csv_rows,
    read_image_list,
    read_json_object,
    read_lines,
)
from mltrain.errors import DataError
from mltrain.text import first_few, first_lines


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_lines_are_numbered_and_blank_ones_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffone \r\n\r\n  two\n")
    assert list(read_lines(path)) == [(1, "one"), (3, "two")]
    assert list(read_class_names(path)) == ["one", "two"]
    assert read_image_list(path, str.upper) == {"ONE": 1, "TWO": 3}


def test_csv_rows_keep_the_line_number_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'a,b\n\n"x\ny", "1, 2"\nz,3\n')
    assert list(read_csv_rows(path)) == [(1, ["a", "b"]), (4, ["x\ny", "1, 2"]), (5, ["z", "3"])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"a\nb\na\n", "line 3: a is listed a second time (line 1)"),
        (b"\n", "lists no image"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_broken_list_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_image_list(path)
    assert str(path) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "broken json"), ("[1]", "expected an object of numbers, found a list"), ("[" * 10**5, "broken json")],
)
def test_a_broken_json_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path / "a.json", content)
    with pytest.raises(DataError) as error:
        read_json_object(path, "an object of numbers")
    assert str(path) in str(error.value) and message in str(error.value)
    path.write_text(json.dumps({"a": 1}))
    assert read_json_object(path, "an object of numbers") == {"a": 1}


def test_a_value_outside_the_choice_is_named_with_the_choice() -> None:
    check_choice("year", 2014, (2014, 2017))
    with pytest.raises(ValueError, match="year must be 2014, 2017 or 07, got 2012"):
        check_choice("year", 2012, (2014, 2017, "07"))


def test_long_lists_are_cut_for_messages() -> None:
    assert first_few(["a", "b"]) == "a, b" and first_few(list("abcdef")) == "a, b, c, d, e, ..."
    assert first_lines(["a"]) == "\n  a" and first_lines(list("abc"), 2) == "\n  a\n  b\n  ... and 1 more"
