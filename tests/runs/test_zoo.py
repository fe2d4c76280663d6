"""The table of published models, and a model of it from address to comparison."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mltrain.commands.evaluate import evaluate
from mltrain.config.build import instantiate, load
from mltrain.config.compose import load_run
from mltrain.engine.run_folder import PREDICTIONS
from mltrain.errors import ConfigError, DataError
from mltrain.metrics.average_precision import envelope_average_precision
from mltrain.models.published import SIZES
from mltrain.prepare.fetch import CHECKSUMS, STORE
from mltrain.runs import zoo
from mltrain.runs.folder import load_finished
from mltrain.runs.obtain import run_folder
from tests.models import published_models as theirs
from tests.prepare.conftest import Site, site  # noqa: F401

MODELS = zoo.models()
# one of each combination of options: the others differ in values that the first test reads
COMPOSED = {(*(word.partition("=")[0] for word in m.options), m.dataset): n for n, m in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
def test_every_row_of_the_table_is_complete(name: str) -> None:
    model = MODELS[name]
    assert model.url is None or (model.url.startswith("https://") and model.url.endswith("/" + model.file))
    assert model.page.startswith("https://") and 50 < model.megabytes < 2000 and model.about
    options = dict(word.split("=", 1) for word in model.options)
    assert int(options["model.image_size"]) in SIZES
    if model.published is not None:
        assert set(model.published) == {"map", "metric", "images"} and model.published["metric"] in zoo.METRICS
        assert 50 < model.published["map"] < 100
        if model.dataset == "coco":  # which images an author evaluated on follows from the data set's option
            kept = options.get("dataset.keep_unlabelled") == "true"
            assert model.published["images"] == (40504 if kept else 40137)
        if model.published["metric"] == "known":
            assert options["metrics.min_negatives"] == "1"


@pytest.mark.parametrize("name", COMPOSED.values())
def test_the_options_of_a_row_compose(name: str) -> None:
    options = MODELS[name].options
    head = "csra" if any("head.lam" in word for word in options) else "gap"
    assert load([*options, "model=timm", "model.name=tresnet_m", f"head={head}"]).model.image_size in SIZES


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"(?s)did you mean zoo:mld_tresnet_m_coco.*allowed: asl_tresnet_m_coco"):
        run_folder("zoo:mld_tresnet_m_coc")
    assert run_folder("runs/a/b") == Path("runs/a/b")


def test_a_file_without_an_address_says_where_to_get_it_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Get it from https://github.com/SlongLiu/query2labels and .* as .*zoo/Q2L"):
        run_folder("zoo:q2l_resnet101_448_coco", [f"paths.data={tmp_path}"])


# -- from address to comparison --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> bytes:
    """A file in ASL's layout for the classes of the drawn shapes."""
    names = instantiate(load(["dataset=shapes"]).dataset, "dataset").train.class_names
    model = theirs.TResNet((1, 1, 1, 1), 16, False, theirs.Linear(512, len(names)), pooled=True)
    stream = io.BytesIO()
    torch.save({"model": theirs.randomised(model).state_dict(), "idx_to_class": dict(enumerate(names))}, stream)
    return stream.getvalue()


def row(site: Site, **changes: Any) -> dict[str, Any]:  # noqa: F811
    options = ["dataset=shapes", "dataset.num_train=20", "dataset.num_val=12", "dataset.image_size=32"]
    return {
        "about": "a small one",
        "url": site.url("small.pth"),
        "file": "small.pth",
        "megabytes": 1,
        "page": "https://example.org/zoo",
        "options": [*options, "model.image_size=64"],
        "published": {"map": 40.0, "metric": "plain", "images": 12},
        "sha256": None,
        **changes,
    }


def use(monkeypatch: pytest.MonkeyPatch, folder: Path, **rows: dict[str, Any]) -> list[str]:
    """A table of one's own; the words that keep its files in `folder`."""
    (folder / "models.yaml").write_text(json.dumps(rows))
    monkeypatch.setattr(zoo, "TABLE", folder / "models.yaml")
    return [f"paths.data={folder}/data", f"paths.runs={folder}/runs"]


def test_a_model_is_downloaded_once_converted_once_and_compared_with_its_figure(
    site: Site,  # noqa: F811
    published: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    site.files["small.pth"], site.cuts = published, [len(published) // 2]
    words = use(monkeypatch, tmp_path, small=row(site))
    caplog.set_level(logging.INFO, logger="mltrain")
    folder = run_folder("zoo:small", words)
    assert folder == tmp_path / "runs" / "zoo" / "small"
    assert site.ranges_asked() == [None, f"bytes={len(published) // 2}-"], "a cut download goes on"
    checksum = hashlib.sha256(published).hexdigest()
    assert (tmp_path / "data" / "zoo" / STORE / CHECKSUMS).read_text() == f"{checksum}  small.pth\n"
    assert json.loads((folder / "source.json").read_text())["sha256"] == checksum
    assert run_folder("zoo:small", words) == folder and len(site.asked) == 2

    quick = ["runner.device=cpu", "runner.amp=off", "data.num_workers=0"]
    result = evaluate(load_run(folder, ["dataset=shapes", *words, *quick]), folder)
    assert result is not None
    ours = result["val"]["map"]
    assert result["compared"]["map"] == ours and result["compared"]["comparable"]
    line = f"{ours:.2f} over 12 images of shapes; published 40 over 12 of shapes (https://example.org/zoo): "
    assert line + f"{ours - 40:+.2f}" in caplog.text

    fewer = evaluate(load_run(folder, ["dataset.num_val=8", *quick]), folder)
    assert fewer is not None and not fewer["compared"]["comparable"]
    assert "over 8 images of shapes; published 40 over 12 of shapes" in caplog.text
    assert "not comparable, these are other images" in caplog.text


def test_the_published_metric_is_the_one_compared(
    site: Site,  # noqa: F811
    published: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site.files["small.pth"] = published
    figure = {"map": 40.0, "metric": "envelope", "images": None}
    words = use(monkeypatch, tmp_path, small=row(site, published=figure))
    folder = run_folder("zoo:small", words)
    quick = ["runner.device=cpu", "runner.amp=off", "data.num_workers=0"]
    result = evaluate(load_run(folder, [*quick, "metrics.save_predictions=true"]), folder)
    assert result is not None
    saved = np.load(folder / PREDICTIONS["val"][1])
    logits, targets = torch.from_numpy(saved["logits_val"]), torch.from_numpy(saved["targets"])
    expected = 100 * float(envelope_average_precision(logits, targets).nanmean())
    assert result["compared"]["map"] == pytest.approx(expected, abs=1e-6)
    assert result["compared"]["map"] >= result["val"]["map"]


def test_another_file_than_the_tables_is_refused(
    site: Site,  # noqa: F811
    published: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site.files["small.pth"] = published
    words = use(monkeypatch, tmp_path, small=row(site, sha256="0" * 64))
    with pytest.raises(DataError, match=r"small.pth: SHA-256 .*, and models.yaml has 0000"):
        run_folder("zoo:small", words)
    site.files["page.pth"] = b"<!DOCTYPE html><html>please log in"
    words = use(monkeypatch, tmp_path, page=row(site, file="page.pth", url=site.url("page.pth")))
    with pytest.raises(DataError, match="is a web page"):
        run_folder("zoo:page", words)
    words = use(monkeypatch, tmp_path, gone=row(site, file="gone.pth", url=site.url("gone.pth")))
    with pytest.raises(DataError, match=r"gone.pth could not be downloaded:\n.*404"):
        run_folder("zoo:gone", words)


def test_only_one_process_downloads(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    words = use(monkeypatch, tmp_path, small=row(site))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="get it with one process first"):
        run_folder("zoo:small", words)
    assert not site.asked


def test_a_named_data_set_replaces_the_runs_or_keeps_its_options(
    site: Site,  # noqa: F811
    published: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site.files["small.pth"] = published
    folder = run_folder("zoo:small", use(monkeypatch, tmp_path, small=row(site)))
    assert load_run(folder, ["dataset=shapes"]).dataset.num_val == 12, "its own data set keeps its options"
    assert load_run(folder, ["dataset=shapes", "dataset.num_val=5"]).dataset.num_val == 5
    other = load_run(folder, ["dataset=csv", "dataset.file=my.csv"]).dataset
    assert other.name == "csv" and other.file == "my.csv"
    assert load_run(folder, ["dataset=coco", "paths.data=/else"]).dataset.root == "/else/coco"
    with pytest.raises(ConfigError, match=r"no such option of dataset; did you mean dataset=coco\?"):
        load_run(folder, ["dataset=cocoo"])
    assert load_finished(folder).stats is None
