"""`mltrain predict` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mltrain.commands.predict import Options, predict
from mltrain.config.compose import load_run
from mltrain.errors import ConfigError, DataError
from mltrain.runs.predictor import image_files
from tests.promises.runs import ROOT, environment


def tool(*words: object, code: int = 0, stdin: str = "") -> tuple[str, str]:
    command = [sys.executable, str(ROOT / "tools" / "predict.py"), *map(str, words)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def labels(run: Path, words: list[str], capsys: pytest.CaptureFixture[str], **options: object) -> str:
    """The same in this process."""
    predict(load_run(run, ["data.num_workers=0"]), run, Options(**options), words)  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_a_list_with_a_bad_image_gets_all_other_labels_and_a_failing_exit(run: Path, images: Path) -> None:
    names = [str(images / "0.png"), str(images / "none.png"), str(images / "1.jpg")]
    out, err = tool(run, "-", "topk=2", "format=jsonl", stdin="\n".join(names), code=2)
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["image"] for record in records] == names
    assert [len(record.get("labels", [])) for record in records] == [2, 0, 2]
    assert "No such file" in records[1]["error"] and "No such file" in err
    assert err.splitlines()[-1].startswith("1 of 3 images could not be read")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a run folder and then images (found 1 name)"),
        (["x.png", "treshold=0.3"], "did you mean threshold=VALUE"),
        (["x.png", "format=xml"], "format=xml: must be table | csv | jsonl"),
        (["x.png", "runner.devise=cpu"], "runner.devise"),
    ],
)
def test_mistakes_are_answered_before_any_work(run: Path, words: list[str], message: str) -> None:
    out, err = tool(run, *words, code=2)
    assert message in err and not out


def test_folders_and_patterns_name_the_images_in_them(images: Path) -> None:
    below = image_files([str(images)])
    assert len(below) == 11 and below == sorted(below)
    assert [Path(file).name for file in image_files([str(images / "*.jpg")])] == ["1.jpg", "3.jpg", "5.jpg", "7.jpg"]
    assert len(image_files([str(images / "**" / "*.png")])) == 7
    assert image_files(["b", "a", "b"]) == ["b", "a", "b"]
    with pytest.raises(ConfigError, match="no image in this folder; suffixes"):
        image_files([str(ROOT / "mltrain" / "losses")])
    with pytest.raises(ConfigError, match=r"none\*\.png: no file matches this pattern"):
        image_files(["none*.png"])


def test_every_format_holds_the_same_labels(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(images / "0.png"), str(images / "1.jpg")]
    records = [json.loads(line) for line in labels(run, words, capsys, topk=3, format="jsonl").splitlines()]
    expected = [(r["image"], x["label"], x["score"]) for r in records for x in r["labels"]]
    assert len(expected) == 6
    rows = list(csv.DictReader(io.StringIO(labels(run, words, capsys, topk=3, format="csv"))))
    assert [(row["image"], row["label"], float(row["score"])) for row in rows] == expected
    table = labels(run, words, capsys, topk=3).splitlines()
    for line, record in zip(table, records, strict=True):
        assert line.split() == [
            record["image"],
            *(part for x in record["labels"] for part in (x["label"], f"{x['score']:.2f}")),
        ]
    file = tmp_path / "new" / "labels.csv"
    assert labels(run, words, capsys, topk=3, format="csv", out=str(file)) == ""
    assert list(csv.DictReader(file.open(newline=""))) == rows


def test_an_image_without_a_label_still_has_its_line(
    run: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(images / "0.png")]
    assert labels(run, words, capsys, threshold=1.0) == f"{words[0]}  -\n"
    assert labels(run, words, capsys, threshold=1.0, format="csv") == f"image,label,score\n{words[0]},,\n"
    assert json.loads(labels(run, words, capsys, threshold=1.0, format="jsonl")) == {"image": words[0], "labels": []}


def test_annotated_copies_lie_as_the_images_do_and_never_on_them(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bitmap = images / "picture.bmp"
    Image.new("RGB", (30, 20), (255, 0, 0)).save(bitmap)
    before = {file: file.read_bytes() for file in images.rglob("*") if file.is_file()}
    try:
        labels(run, [str(images)], capsys, topk=2, annotated=str(tmp_path / "seen"))
        made = {str(file.relative_to(tmp_path / "seen")) for file in (tmp_path / "seen").rglob("*.*")}
        expected = {str(Path(file).relative_to(images)) for file in image_files([str(images)])}
        assert made == (expected - {"picture.bmp"}) | {"picture.bmp.png"}
        with Image.open(tmp_path / "seen" / "picture.bmp.png") as copy:
            assert copy.getpixel((5, 5)) == (255, 0, 0) and copy.height > copy.width * 20 / 30  # room for two lines
        for place in (images, images.parent / images.name):
            with pytest.raises(ConfigError, match="is one of the images; name another folder"):
                labels(run, [str(images)], capsys, annotated=str(place))
        assert before == {file: file.read_bytes() for file in images.rglob("*") if file.is_file()}
    finally:
        bitmap.unlink()


def test_the_file_of_labels_appears_when_it_is_complete(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels.txt"
    with pytest.raises(DataError, match="1 of 2 images could not be read"):
        labels(run, [str(images / "0.png"), "none.png"], capsys, out=str(out), topk=1)
    assert len(out.read_text().splitlines()) == 1
    with pytest.raises(ConfigError, match=r"out=.*labels\.txt/x"):
        labels(run, [str(images / "0.png")], capsys, out=str(out / "x"))
    assert [file.name for file in tmp_path.iterdir()] == ["labels.txt"]


def test_files_with_any_name_and_of_any_kind_are_answered(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe would block for ever; names are bytes; an EPS file would start Ghostscript."""
    name = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")
    shutil.copyfile(images / "0.png", name)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "photo.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    out = tmp_path / "out" / "labels.jsonl"
    with pytest.raises(DataError, match="2 of 3 images could not be read"):
        labels(run, [str(tmp_path)], capsys, topk=1, format="jsonl", out=str(out))
    records = {Path(r["image"]).name: r for r in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
    assert len(records[Path(name).name]["labels"]) == 1
    assert "named pipe" in records["pipe.jpg"]["error"] and "not an image of a format" in records["photo.jpg"]["error"]


def test_labels_never_replace_an_image(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (images / "1.jpg").read_bytes()
    linked = tmp_path / "labels.txt"
    linked.hardlink_to(images / "1.jpg")
    for out in (images / "1.jpg", linked, tmp_path / "new.JPG"):
        with pytest.raises(ConfigError, match="is one of the images, or named like one"):
            labels(run, [str(images / "*.jpg")], capsys, out=str(out))
    assert (images / "1.jpg").read_bytes() == before and not (tmp_path / "new.JPG").exists()
