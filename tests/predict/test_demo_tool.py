"""`mltrain demo`: what the page answers, the nearest training images, and the page in a browser."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mltrain.commands.demo import DemoPage, Options
from mltrain.config.compose import load_run
from mltrain.engine.run_folder import TRAIN_FEATURES
from mltrain.errors import ConfigError
from mltrain.models.explain import class_maps
from mltrain.report.html.demo import Answer, Row, labels_html
from mltrain.runs import demo_server, nearest
from mltrain.runs.folder import load_finished
from mltrain.runs.nearest import TrainingImages, training_images
from mltrain.runs.one_image import look
from mltrain.runs.predictor import Predictor
from tests.promises.runs import ROOT, TINY, environment, fit
from tests.report.browser import browser


@pytest.fixture(scope="module")
def own(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that these tests write to."""
    return Path(shutil.copytree(run, tmp_path_factory.mktemp("demo") / "run"))


def page_of(folder: Path, *overrides: str, **options: object) -> DemoPage:
    return DemoPage.of_run(load_run(folder, overrides), folder, Options(**options))  # type: ignore[arg-type]


def trained_on(folder: Path) -> tuple[TrainingImages, Predictor]:
    run = load_finished(folder)
    predictor = Predictor.from_run(run)
    return training_images(run, predictor), predictor


def test_page_has_the_labels_of_predict_and_the_maps_of_explain(own: Path, images: Path) -> None:
    file = str(images / "1.jpg")
    page = page_of(own, topk=5, nearest=2)
    beside, below = page.answer(file)
    predictor = Predictor.from_run(own)
    predicted = [label.name for label in predictor(file)]
    with_scores = dict(Predictor.from_run(own, topk=20)(file))
    rows = re.findall(
        r'<tr class="(\w+)">\s*<th scope="row">.*?</span>([^<]+)</th>.*?<td class="number">([\d.]+)', beside, re.S
    )
    assert len(rows) == max(5, len(predicted))
    assert [name for kind, name, _ in rows if kind == "predicted"] == predicted
    assert all(float(score) == pytest.approx(with_scores[name], abs=0.006) for _, name, score in rows)
    assert f"{len(predicted) or 'None'} of 20 classes" in beside and "metrics.threshold, not tuned" in beside
    assert below.count("peak") + below.count("no evidence") == max(1, len(predicted))
    image = np.array(Image.open(file).convert("RGB"))
    found = look(predictor, image)
    pixels = predictor.resize(image)[None]
    assert found.maps is not None
    np.testing.assert_array_equal(found.maps.maps, class_maps(predictor.model, pixels).maps)
    np.testing.assert_allclose(found.scores, predictor.scores(predictor.logits(pixels))[0], rtol=1e-6)


def test_a_training_image_is_nearest_to_itself(own: Path) -> None:
    training, predictor = trained_on(own)
    assert len(training.indices) == len(training.labels) == 80
    for index in (3, 41):
        image = np.array(Image.open(training.labels.path(index)).convert("RGB"))
        first, second = training.nearest(look(predictor, image).feature, 2)
        assert first.path == training.labels.path(index) and first.cosine == pytest.approx(1, abs=2e-3)
        positives = np.flatnonzero(training.labels.targets(index) == 1)
        assert first.labels == [training.labels.class_names[c] for c in positives]
        assert second.cosine <= first.cosine
    feature = np.random.default_rng(0).normal(size=training.features.shape[1]).astype(np.float32)
    cosines = training.features.astype(np.float64) @ feature / np.linalg.norm(feature)
    expected = [training.labels.path(int(training.indices[k])) for k in np.argsort(-cosines)[:3]]
    assert [near.path for near in training.nearest(feature, 3)] == expected


def test_features_are_kept_for_the_weights_they_are_of(
    own: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before, _ = trained_on(own)
    computed: list[str] = []
    compute = nearest._compute
    monkeypatch.setattr(nearest, "_compute", lambda *given: computed.append("") or compute(*given))
    kept, _ = trained_on(own)
    assert not computed
    np.testing.assert_array_equal(kept.features, before.features)
    other = next(name for name in ("val", "ema") if name != load_finished(own).weights)
    run = load_finished(own, weights=other)
    changed = training_images(run, Predictor.from_run(run))
    assert len(computed) == 1 and not np.array_equal(changed.features, before.features)
    (own / TRAIN_FEATURES).write_bytes(b"PK damaged")
    again, _ = trained_on(own)
    assert len(computed) == 2 and f"{own / TRAIN_FEATURES}: cannot be read" in caplog.text
    np.testing.assert_array_equal(again.features, before.features)
    assert not list(own.glob(".*.tmp"))


def test_without_training_images_the_page_says_so(own: Path, images: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    names = load_finished(own).class_names
    table.write_text("image,labels,split\n" + "".join(f"{k}.jpg,{names[k % 2]},train\n" for k in range(20)))
    missing = ["dataset=csv", f"dataset.file={table}"]
    for overrides, reason in (
        (["dataset=csv", f"dataset.file={tmp_path}/none.csv"], "none.csv"),
        (missing, "none of 20 training images can be read; the first: "),
    ):
        page = page_of(own, *overrides)
        assert page.training is None
        beside, below = page.answer(str(images / "0.png"))
        assert "of 20 classes" in beside
        assert "The training images are not at hand: " in below and reason in below
    page = page_of(own, "dataset=csv", f"dataset.file={tmp_path}/none.csv", nearest=0)
    assert "training images" not in page.answer(str(images / "0.png"))[1]


def test_images_that_cannot_be_read_are_left_out(
    own: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = load_finished(own).class_names
    files = [str(images / "0.png"), str(images / "notes.txt"), str(images / "1.jpg")]
    table = tmp_path / "labels.csv"
    table.write_text("image,labels,split\n" + "".join(f"{file},{names[k]},train\n" for k, file in enumerate(files)))
    page = page_of(own, "dataset=csv", f"dataset.file={table}")
    assert "1 of 3 training images cannot be read and are left out; the first: " in caplog.text
    assert page.training is not None and page.training.indices.tolist() == [0, 2]
    assert page.answer(files[0])[1].count("cosine") == 2 + 1  # and in the line above them
    beside, below = page.answer(files[1])
    assert "notes.txt: cannot decode the image" in beside and not below and str(images) not in beside


def test_one_label_an_image_has_no_thresholds(tmp_path: Path, images: Path) -> None:
    options = ["task=single_label", "dataset=digits", "loss=cross_entropy", "runner.max_steps=1", "data.limit=60"]
    tiny = [option for option in TINY if not option.startswith(("dataset.", "model.image_size"))]
    folder = fit([*tiny, *options, "model.image_size=32", f"paths.runs={tmp_path}", f"paths.data={tmp_path}"])
    beside, below = page_of(folder, nearest=0, topk=3).answer(str(images / "0.png"))
    assert "The most probable of 10 classes is " in beside and "softmax" in beside and 'class="tick"' not in beside
    assert beside.count('<tr class="predicted">') == 1 and below.count("<figure>") == 1


def test_names_are_text_and_close_scores_are_told_apart() -> None:
    text = labels_html(Answer([Row("<b>a</b>", 0.5004, True, 0.5)], "x", "y"))
    assert "&lt;b&gt;a&lt;/b&gt;" in text and "<b>" not in text
    assert "0.5004" in text and "0.5000" in text
    assert "<script>" not in labels_html(Answer(problem="<script>"))


def test_wrong_places_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with demo_server.listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port={port}: another program listens there; port=0 takes any free"):
            demo_server.listening("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"host=192\.0\.2\.1: cannot listen there"):
        demo_server.listening("192.0.2.1", 0)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'mltrain-vision[demo]'")):
        demo_server.import_gradio()
    local = [
        host for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "192.168.0.4") if demo_server.is_loopback(host)
    ]
    assert local == ["127.0.0.1", "localhost", "::1"]


@pytest.mark.slow
def test_page_in_a_browser(own: Path, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="pip install 'mltrain-vision[demo]'")
    with browser() as started:  # skips without chromium, before a server starts
        words = [sys.executable, "-m", "mltrain", "demo", str(own), "port=0", "nearest=2", "topk=4"]
        settings = {"cwd": ROOT, "env": environment() | {"TMPDIR": str(tmp_path)}, "text": True}
        server = subprocess.Popen(words, stderr=subprocess.PIPE, **settings)  # type: ignore[call-overload]
        try:
            lines = iter(server.stderr.readline, "")
            address = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            asked: list[str] = []
            page = started.new_context(viewport={"width": 390, "height": 900}, color_scheme="dark").new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address)
            page.wait_for_selector("text=Drop an image to see its labels", timeout=60_000)
            page.set_input_files("input[type=file]", str(images / "1.jpg"))
            page.wait_for_selector("table.labels", timeout=60_000)
            page.wait_for_selector("text=Nearest training images", timeout=60_000)
            assert page.locator("table.labels tbody tr").count() >= 4
            assert page.locator("figure").count() >= 3
            assert all(page.evaluate("Array.from(document.querySelectorAll('figure img'), (i) => i.naturalWidth > 0)"))
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling"
            dark = page.evaluate("getComputedStyle(document.querySelector('.demo section')).backgroundColor")
            assert dark == "rgb(26, 32, 40)"
            page.locator("figure label").first.click()
            assert page.evaluate("document.querySelector('figure img').getBoundingClientRect().width") == 390
            page.locator("figure label").first.click()
            shutil.copy(images / "notes.txt", tmp_path / "notes.png")
            page.set_input_files("input[type=file]", str(tmp_path / "notes.png"))
            page.wait_for_selector("text=notes.png: cannot decode the image", timeout=60_000)
            elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
            assert not elsewhere
            assert not _answers("127.0.0.1", address, "evil.example"), "another name is refused"
            assert _answers("127.0.0.1", address, "localhost")
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)
    assert not list(tmp_path.glob("mltrain-demo-*")), "uploads are removed"


def _answers(host: str, address: str, name: str) -> bool:
    """Return whether the page answers a request that calls the machine by a name."""
    with socket.create_connection((host, int(address.rpartition(":")[2])), timeout=20) as line:
        line.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        return b" 200 " in line.recv(64)
