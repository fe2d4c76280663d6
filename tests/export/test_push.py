"""What is pushed is whole, reads back as a run, says what the run was, and keeps the machine's folders to itself."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from mltrain.commands import push as command
from mltrain.commands.evaluate import evaluate
from mltrain.commands.push import Options, push
from mltrain.config.compose import load_run
from mltrain.errors import ConfigError, MltrainError
from mltrain.models.export import random_images
from mltrain.models.label_embeddings import write_label_embeddings
from mltrain.runs.folder import build_model, load_finished
from tests.promises.runs import ROOT, execute


def pushed(run: Path, out: Path, **options: Any) -> Path:
    return push(load_run(run), run, Options(out=str(out), **options))


@pytest.fixture(scope="module")
def hub(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The EMA weights of the trained run, by the tool."""
    out = tmp_path_factory.mktemp("hub") / "model"
    words = [f"out={out}", "weights=ema", "license=Apache-2.0", "data_license=our own drawings"]
    done = execute([sys.executable, str(ROOT / "tools" / "push.py"), str(trained), *words])
    assert "README.md" in done.stderr
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1, "others may read all files or none"
    return out


def front(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return content


def test_the_folder_reads_back_as_the_run(hub: Path, trained: Path) -> None:
    original, copy = load_finished(trained, weights="ema"), load_finished(hub)
    assert copy.class_names == original.class_names
    assert copy.stats is not None
    assert original.stats is not None
    assert copy.stats.to_json() == original.stats.to_json()
    images = random_images(5, 32)
    with torch.no_grad():
        assert torch.equal(copy.model(images), original.model(images))


def test_evaluating_the_folder_gives_the_figures_on_its_card(hub: Path, trained: Path) -> None:
    expected = json.loads((trained / "result.json").read_text())["ema"]
    cfg = load_run(hub, [f"{k}={v}" for k, v in (("dataset.root", load_run(trained).dataset.root),) if v])
    figures = evaluate(cfg, hub)
    assert figures is not None
    for file in hub.glob("evaluation*"):
        file.unlink()
    shown = {m["type"]: m["value"] for m in front(hub)["model-index"][0]["results"][0]["metrics"]}
    for key in ("map", "map_medium", "OF1", "CF1"):
        assert figures["val"][key] == pytest.approx(expected[key], abs=1e-4)
        assert shown[key] == pytest.approx(expected[key], abs=0.005)
        assert f"| {expected[key]:.2f} " in (hub / "README.md").read_text()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
def test_a_damaged_table_of_classes_is_not_left_out_silently(trained: Path, tmp_path: Path, content: bytes) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "per_class.csv").write_bytes(content)
    with pytest.raises(MltrainError, match=r"per_class\.csv: .*; delete it to publish the model without"):
        pushed(run, tmp_path / "out")
    (run / "per_class.csv").unlink()
    assert (pushed(run, tmp_path / "out") / "README.md").is_file()


def test_the_card_states_model_data_recipe_and_licences(hub: Path, trained: Path) -> None:
    text = (hub / "README.md").read_text()
    run = load_finished(trained)
    assert run.stats is not None
    for part in (
        f"multi-label image classifier of {len(run.class_names)} classes",
        "Backbone `test_resnet` with the head `ml_decoder`",
        f"Trained on {run.stats.num_images} images of shapes with {run.stats.positives.sum():,} labels",
        "Figures of the averaged (EMA) weights",
        "1 epoch, batch 16",
        "- The weights: Apache-2.0.",
        "- The training images: our own drawings.",
        run.class_names[0],
    ):
        assert part in text, part
    for section in ("Use", "Results", "Data", "Training", "Limits", "Licence"):
        assert f"\n## {section}\n" in text
    assert front(hub)["license"] == "apache-2.0"
    assert front(hub)["library_name"] == "mltrain"
    facts = json.loads((hub / "config.json").read_text())
    assert facts["class_names"] == list(run.class_names)
    assert (facts["image_size"], facts["resize"], facts["architecture"]) == (32, "squish", "test_resnet")


def test_a_converted_checkpoint_shows_its_origin_and_the_evaluation_made_here(hub: Path, tmp_path: Path) -> None:
    converted = tmp_path / "converted"
    converted.mkdir()
    for name in ("model.safetensors", "config.yaml", "classes.txt"):
        shutil.copy(hub / name, converted / name)
    source = {"file": "asl_resnet.pth", "sha256": "abc", "recognised": "a ResNet with ML-Decoder"}
    (converted / "source.json").write_text(json.dumps(source))
    text = (pushed(converted, tmp_path / "one") / "README.md").read_text()
    assert "# asl_resnet\n" in text
    assert "The weights were trained elsewhere: a ResNet with ML-Decoder." in text
    assert "No evaluation came with these weights." in text
    (converted / "evaluation.json").write_text(json.dumps({"val": {"map": 12.345}, "best": {"weights": "val"}}))
    text = (pushed(converted, tmp_path / "two") / "README.md").read_text()
    assert "| validation | 12.35 |" in text or "| validation | 12.34 |" in text
    assert "Epoch" not in text


def test_the_line_of_python_on_the_card_works(hub: Path, tmp_path: Path) -> None:
    line = re.search(r"`(from mltrain import Predictor)`, then `(Predictor.*?)`", (hub / "README.md").read_text())
    assert line is not None
    Image.new("RGB", (50, 40), "red").save(tmp_path / "photo.jpg")
    code = f"{line.group(1)}\nfound = {line.group(2)}".replace("FOLDER", str(hub))
    names: dict[str, Any] = {}
    exec(code.replace("photo.jpg", str(tmp_path / "photo.jpg")), names)
    assert all(label.name in load_finished(hub).class_names for label in names["found"])


def test_an_unstated_licence_is_said_to_be_unstated(trained: Path, tmp_path: Path) -> None:
    text = (pushed(trained, tmp_path / "hub") / "README.md").read_text()
    assert "The weights: not stated" in text
    assert "license:" not in text


def test_no_folder_of_the_machine_is_published(hub: Path, trained: Path) -> None:
    for file in hub.iterdir():
        content = file.read_bytes().decode("utf-8", errors="replace")
        for place in (ROOT, trained.parents[2], Path(sys.prefix)):
            assert str(place) not in content, f"{place} in {file.name}"


def test_class_names_that_look_like_paths_stay(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    state = torch.load(run / "best.pt", weights_only=True)
    names = [f"/m/{k:04d}" for k in range(len(state["class_names"]))]
    state["class_names"] = state["stats"]["class_names"] = names
    torch.save(state, run / "best.pt")
    stats = json.loads((run / "stats.json").read_text())
    (run / "stats.json").write_text(json.dumps(stats | {"class_names": names}))
    out = pushed(run, tmp_path / "hub")
    copy = load_finished(out)
    assert list(copy.class_names) == names
    assert copy.stats is not None
    assert list(copy.stats.class_names) == names
    assert "/m/0003" in (out / "README.md").read_text()


def test_a_pushed_folder_can_be_pushed_again_unchanged(hub: Path, tmp_path: Path) -> None:
    out = pushed(hub, tmp_path / "again", license="Apache-2.0", data_license="our own drawings")
    assert {f.name for f in out.iterdir()} == {f.name for f in hub.iterdir()}
    for file in hub.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name


def test_thresholds_come_along_and_their_figures_are_on_the_card(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    finished = load_finished(run)
    split = {"split": "val", "name": "shapes/val", "images": 24, "fingerprint": "0"}
    content = {
        "class_names": finished.class_names,
        "thresholds": [0.25] * len(finished.class_names),
        "weights": finished.weights,
        "best": {key: finished.best[key] for key in ("epoch", "step")},
        "chosen_by": "F1 of each class",
        "tuned_on": split,
        "reported_on": split,
        "folds": 5,
        "figures_before": {"OF1": 10.0},
        "figures": {"OF1": 20.0},
    }
    (run / "thresholds.json").write_text(json.dumps(content))
    out = pushed(run, tmp_path / "hub")
    text = (out / "README.md").read_text()
    assert "above 0.25 (tuned for F1 of each class on shapes/val)" in text
    assert "OF1 20.00 (10.00 with 0.5), over 5 folds of shapes/val" in text
    from mltrain.runs.thresholds import thresholds_of

    assert set(thresholds_of(load_finished(out))) == {0.25}


def test_other_peoples_folders_are_left_alone(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match="the folder has other files; choose"):
        pushed(trained, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    with pytest.raises(ConfigError, match="is the run folder itself"):
        pushed(trained, trained)
    with pytest.raises(ConfigError, match="private=true needs an upload: add repo="):
        pushed(trained, tmp_path / "x", private=True)


def test_a_push_that_fails_leaves_the_folder_as_it_was(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = pushed(trained, tmp_path / "hub")
    (out / "model.onnx").write_text("kept")
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(MltrainError, match="cannot be written: No space left on device"):
        pushed(trained, out, license="mit")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub's interface as creating a repository and uploading small files take."""

    received: dict[str, bytes]
    refuse = False

    def do_POST(self) -> None:
        body = (
            self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else self._chunks()
        )
        place = f"http://{self.headers['Host']}/me/shapes"
        answer: dict[str, Any] = {}
        if type(self).refuse or self.headers.get("Authorization") != "Bearer hf_test":
            self._answer(401, {"error": "Invalid username or password."})
            return
        if self.path == "/api/repos/create":
            assert json.loads(body)["name"] == "shapes"
            answer = {"url": place}
        elif self.path.endswith("/preupload/main"):
            asked = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]}
        elif self.path.endswith("/commit/main"):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    type(self).received[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            answer = {"commitUrl": f"{place}/commit/{'0' * 40}", "commitOid": "0" * 40, "pullRequestUrl": None}
        self._answer(200, answer)

    def do_GET(self) -> None:
        self._answer(200, {})

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    """A hub on this machine, which `huggingface_hub` is pointed at."""
    pytest.importorskip("huggingface_hub")
    handler = type("Handler", (_Hub,), {"received": {}, "refuse": False})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield handler
        running.shutdown()


def test_the_hub_receives_every_file(server: type[_Hub], trained: Path, tmp_path: Path) -> None:
    out = pushed(trained, tmp_path / "hub")
    (out / "model.onnx").write_bytes(b"onnx")
    pushed(trained, out, repo="me/shapes", license="mit")
    written = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    (out / "predictions_val.npz").write_bytes(b"of an evaluation")
    pushed(trained, out, repo="me/shapes", license="mit")
    assert server.received == written
    assert {"model.onnx", "model.safetensors", "README.md"} <= written.keys()
    text = server.received["README.md"].decode()
    assert re.search(r"^# shapes$", text, re.M)
    assert "hf download me/shapes --local-dir FOLDER" in text


def test_a_hub_that_refuses_leaves_a_whole_folder_and_a_message(
    server: type[_Hub], trained: Path, tmp_path: Path
) -> None:
    server.refuse = True
    with pytest.raises(
        MltrainError, match=r"repo=me/shapes: the upload failed .*hub is complete; log in with `hf auth login`"
    ):
        pushed(trained, tmp_path / "hub", repo="me/shapes")
    assert load_finished(tmp_path / "hub").class_names


def test_a_zero_shot_model_brings_its_label_embeddings(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    state = torch.load(run / "best.pt", weights_only=True)
    names = tuple(state["class_names"])
    vectors = torch.randn(len(names), 6, generator=torch.Generator().manual_seed(0)).numpy()
    write_label_embeddings(tmp_path / "vectors.npz", names, vectors)
    config = yaml.safe_load((run / "config.yaml").read_text())
    target = "mltrain.models.heads.zero_shot.ZeroShotMLDecoder"
    size = {"dim": 32, "num_heads": 4, "ffn_dim": 64}
    config["head"] = {"_target_": target, "embeddings": str(tmp_path / "vectors.npz"), **size}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    state["model"] = build_model(load_run(run), names, None).state_dict()
    state |= {"ema": None, "best": state["best"] | {"weights": "val"}}
    torch.save(state, run / "best.pt")
    out, images = pushed(run, tmp_path / "hub"), random_images(2, 32)
    with torch.no_grad():
        expected = load_finished(run).model(images)
    (tmp_path / "vectors.npz").unlink()
    with torch.no_grad():
        assert torch.equal(load_finished(out).model(images), expected)


@pytest.mark.parametrize("place", ["while it writes", "while it moves", "an earlier version"])
def test_a_killed_call_can_be_repeated(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    out = tmp_path / "hub"
    if place == "an earlier version":
        (out / ".push-abcd1234").mkdir(parents=True)
    else:
        owner, name = (command, "_write") if place == "while it writes" else (Path, "replace")
        call = getattr(owner, name)

        def killed(*arguments: Any) -> None:
            call(*arguments)
            if place == "while it writes" or arguments[1].parent == out:
                os._exit(9)

        pid = os.fork()
        if pid == 0:
            setattr(owner, name, killed)
            try:
                pushed(trained, out)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] >> 8 == 9
        assert len(list(out.iterdir())) == (1 if place == "while it writes" else 2)
    pushed(trained, out)
    assert load_finished(out).class_names == load_finished(trained).class_names
    if place != "an earlier version":
        assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
