"""Near-duplicates: copies are found, other pictures are not, and every pair within the distance is found."""

from __future__ import annotations

import csv
import io
import logging
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mltrain.cli import read
from mltrain.commands.find_duplicates import COMMAND, find_duplicates
from mltrain.config.build import instantiate, load
from mltrain.errors import DataError
from mltrain.pipeline.near_duplicates import MOST_DISTANCE, Sketches, groups_of_pairs, near_pairs, sketch


def picture(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A smooth picture with structure at several scales."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (k, k, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC))
        for k in (3, 6, 12)
    ]
    return Image.fromarray((0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]).astype(np.uint8))


def differing(a: Path, b: Path) -> int:
    first, second = sketch(str(a))[0], sketch(str(b))[0]
    return int(np.unpackbits((first ^ second).view(np.uint8)).sum())


def test_copies_are_near_and_other_pictures_far(tmp_path: Path) -> None:
    original = picture(0)
    original.save(tmp_path / "a.png")
    original.save(tmp_path / "a.jpg", quality=40)
    original.resize((640, 480)).save(tmp_path / "large.jpg", quality=90)
    original.convert("L").save(tmp_path / "grey.png")
    original.convert("RGBA").save(tmp_path / "alpha.png")
    turned = original.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    for name in ("a.jpg", "large.jpg", "grey.png", "alpha.png", "turned.jpg"):
        assert differing(tmp_path / "a.png", tmp_path / name) <= 6, name
    others = []
    for seed in range(1, 30):
        picture(seed).save(tmp_path / f"{seed}.png")
        others.append(differing(tmp_path / "a.png", tmp_path / f"{seed}.png"))
    assert min(others) > 25
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no\.png: cannot decode"):
        sketch(str(tmp_path / "no.png"))


@pytest.mark.parametrize("distance", [0, 3, MOST_DISTANCE])
def test_every_pair_within_the_distance_is_found_once(distance: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mltrain.pipeline.near_duplicates._AT_ONCE", 50)
    rng = np.random.default_rng(distance)
    bases = rng.integers(0, 2, (12, 128), dtype=np.uint8)
    bits = np.repeat(bases, 12, axis=0)
    for row in bits:
        row[rng.choice(128, rng.integers(0, 8), replace=False)] ^= 1
    hashes = np.packbits(bits, axis=1).view(np.uint16)
    grey = np.repeat(rng.integers(0, 2, 144), 64).reshape(144, 64).astype(np.uint8) * 200
    expected = {
        (a, b): int((bits[a] != bits[b]).sum())
        for a, b in combinations(range(144), 2)
        if (bits[a] != bits[b]).sum() <= distance and grey[a, 0] == grey[b, 0]
    }
    pairs = near_pairs(Sketches(hashes, grey), distance)
    found = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(found) == len(set(found)) > 0
    assert dict(zip(found, pairs.distance.tolist(), strict=True)) == expected
    assert pairs.distance.tolist() == sorted(pairs.distance.tolist())


def test_pairs_connect_images_to_groups() -> None:
    groups = groups_of_pairs(6, np.array([0, 1, 4]), np.array([1, 3, 5]))
    assert groups[0] == groups[1] == groups[3] and groups[4] == groups[5] and len(set(groups.tolist())) == 3
    none = near_pairs(Sketches(np.zeros((0, 8), np.uint16), np.zeros((0, 64), np.uint8)), 5)
    assert len(none.first) == 0
    with pytest.raises(ValueError, match="distance must be 0 to 7"):
        near_pairs(Sketches(np.zeros((0, 8), np.uint16), np.zeros((0, 64), np.uint8)), 8)


def test_the_command_names_pairs_and_its_groups_keep_them_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = ["image,labels,split"]
    for k in range(12):
        picture(k).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,{'ab'[k % 2]},train")
        if k % 3 == 0:
            picture(k).save(tmp_path / f"copy-{k}.jpg", quality=60)
            rows.append(f"copy-{k}.jpg,{'ab'[k % 2]},{'val' if k else 'train'}")
    for colour in (0, 255):  # plain surfaces have equal hashes
        Image.new("RGB", (20, 20), (colour,) * 3).save(tmp_path / f"plain-{colour}.png")
        rows.append(f"plain-{colour}.png,a,{'val' if colour else 'train'}")
    (tmp_path / "bad.png").write_bytes(b"bad")
    rows.append("bad.png,a,train")
    (tmp_path / "my.csv").write_text("\n".join(rows) + "\n")
    caplog.set_level(logging.WARNING)
    data = ["dataset=csv", f"dataset.file={tmp_path}/my.csv"]
    words = [*data, f"out={tmp_path}/pairs.csv", f"groups={tmp_path}/groups.csv"]
    pairs = find_duplicates(*read(COMMAND, words))
    assert {(pair["image"], pair["other"]) for pair in pairs} == {(f"{k}.png", f"copy-{k}.jpg") for k in (3, 6, 9)}
    assert {(pair["split"], pair["other_split"]) for pair in pairs} == {("train", "val")}
    shown = capsys.readouterr().out
    assert "18 images, at most 6 of 128 bits apart: 3 pairs of near-duplicates across splits, 1 within" in shown
    assert "train: 3.png  val: copy-3.jpg" in shown and "1 image cannot be read" in caplog.text
    table = list(csv.DictReader(io.StringIO((tmp_path / "pairs.csv").read_text())))
    assert [row["image"] for row in table] == [pair["image"] for pair in pairs]
    assert len(find_duplicates(*read(COMMAND, [*data, "within=true"]))) == 4
    drawn = ["dataset.folds=3", "dataset.fold={}", f"dataset.groups={tmp_path}/groups.csv", "dataset.val_split=none"]
    (tmp_path / "my.csv").write_text("\n".join(row.replace(",val", ",train") for row in rows) + "\n")
    for fold in range(3):
        splits = instantiate(load([*data, *(word.format(fold) for word in drawn)]).dataset, "dataset")
        for k in (0, 3, 6, 9):
            assert (f"{k}.png" in splits.val.files) == (f"copy-{k}.jpg" in splits.val.files)
