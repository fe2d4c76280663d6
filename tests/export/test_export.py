"""Exported files give PyTorch's answers and say by themselves how they are used; what does not is not written."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mltrain.commands.export import Options, export
from mltrain.config.compose import load_run
from mltrain.errors import ConfigError, MltrainError
from mltrain.models import create_classifier
from mltrain.models import export as models_export
from mltrain.models.classifier import Classifier
from mltrain.models.export import BATCHES, export_classifier, random_images
from mltrain.pipeline.augment import EvalResize
from mltrain.pipeline.decode import read_image
from mltrain.runs.folder import load_finished
from tests.promises.runs import ROOT, environment

CLASSES = 7
BACKBONES = {
    "resnet": ("test_resnet", 32, {}),
    "vit": ("test_vit", 32, {}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        32,
        {"window_size": 2, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4)},
    ),
    "tresnet": ("tresnet_m", 64, {"layers": (1, 1, 1, 1), "width_factor": 0.25}),
}
HEADS = {
    "gap": {},
    "ml_decoder": {"dim": 32, "num_heads": 4, "ffn_dim": 64, "groups": 3},
    "query2label": {"dim": 32, "ffn_dim": 64},
    "csra": {"num_heads": 4, "lam": 0.3},
    "pfc": {"dim": 16},
}


def pairs(*quick: tuple[str, str]) -> list:
    """All pairs of backbone and head, those that are not `quick` marked slow."""
    return [
        pytest.param(backbone, head, marks=() if (backbone, head) in quick else pytest.mark.slow)
        for backbone in BACKBONES
        for head in HEADS
    ]


def classifier(backbone: str = "resnet", head: str = "gap") -> Classifier:
    torch.manual_seed(0)
    name, size, options = BACKBONES[backbone]
    return create_classifier(
        name=name,
        num_classes=CLASSES,
        head=head,
        image_size=size,
        backbone_options={"timm_kwargs": options},
        head_options=HEADS[head],
    ).eval()


def with_head(head: nn.Module) -> Classifier:
    return Classifier(classifier().backbone, head).eval()


def images_for(model: Classifier, count: int) -> Tensor:
    """Other images than those the export checks with."""
    side = model.backbone.image_size
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


# the quick one is the trained run below: an export to ONNX takes seconds
@pytest.mark.parametrize(("backbone", "head"), pairs())
def test_onnx_equals_pytorch_at_any_batch_size(backbone: str, head: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = classifier(backbone, head)
    parity = export_classifier(model, tmp_path / "model.onnx")
    assert parity.difference <= 1e-5 < parity.allowed * 10
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[0] == "batch"
    for count in (1, 3, 8):
        images = images_for(model, count)
        with torch.no_grad():
            expected = model(images)
        logits, probabilities = session.run(["logits", "probabilities"], {"images": images.numpy()})
        np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(probabilities, expected.sigmoid(), atol=1e-6)


@pytest.mark.parametrize(("backbone", "head"), pairs(("swin", "gap"), ("vit", "query2label"), ("tresnet", "csra")))
def test_torch_export_equals_pytorch_at_any_batch_size(backbone: str, head: str, tmp_path: Path) -> None:
    model = classifier(backbone, head)
    export_classifier(model, tmp_path / "model.pt2", metadata={"class_names": ["ä", "b"]})
    extra = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["metadata.json"]) == {"class_names": ["ä", "b"]}
    for count in (1, 3, 8):
        images = images_for(model, count)
        with torch.no_grad():
            torch.testing.assert_close(program(images)["logits"], model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["float", "normalised"])
def test_input_is_what_was_asked_for(kind: str, tmp_path: Path) -> None:
    model = classifier()
    export_classifier(model, tmp_path / "m.pt2", input=kind, task="single_label")  # type: ignore[arg-type]
    program = torch.export.load(tmp_path / "m.pt2").module()
    images = images_for(model, 4)
    with torch.no_grad():
        given = {
            "float": images.float(),
            "normalised": (images / 255 - torch.tensor(model.backbone.mean).view(3, 1, 1))
            / torch.tensor(model.backbone.std).view(3, 1, 1),
        }[kind]
        outputs, expected = program(given), model(images)
    torch.testing.assert_close(outputs["logits"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs["probabilities"], expected.softmax(1), atol=1e-6, rtol=1e-5)


class _OtherWhenExported(nn.Module):
    """Its exported program does not do what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(classifier().backbone.num_features, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.fc(tokens.mean(1))
        return logits * 1.01 if torch.compiler.is_compiling() else logits


class _FixedBatch(_OtherWhenExported):
    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.fc(tokens.mean(1))
        return logits + torch.arange(int(tokens.shape[0])).sum() * 0 if len(tokens) else logits


class _DecidesByData(_OtherWhenExported):
    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.fc(tokens.mean(1))
        return logits if logits.sum() > 0 else -logits


@pytest.mark.parametrize("suffix", [pytest.param(".onnx", marks=pytest.mark.slow), ".pt2"])
def test_a_file_that_differs_is_refused_and_the_older_one_stays(suffix: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    path = tmp_path / f"model{suffix}"
    path.write_text("older")
    with pytest.raises(MltrainError, match=r"does not do what the model does.*nothing was written"):
        export_classifier(with_head(_OtherWhenExported()), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "older"


@pytest.mark.parametrize("head", [_DecidesByData, _FixedBatch])
def test_a_model_that_cannot_be_exported_is_refused_with_the_reason(head: type[nn.Module], tmp_path: Path) -> None:
    with pytest.raises(MltrainError, match=r"torch.export of PyTorch .* cannot convert ResNet \(\w+: \w"):
        export_classifier(with_head(head()), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_wrong_requests_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    with pytest.raises(ConfigError, match=r"must end in .onnx .* or .pt2"):
        export_classifier(model, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"images: must be uint8 \(B, 3, 32, 32\)"):
        export_classifier(model, tmp_path / "model.pt2", images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"model\.eval"):
        export_classifier(classifier().train(), tmp_path / "model.pt2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"ONNX needs onnx, onnxruntime, onnxscript: pip install 'mltrain\[export\]'"):
        export_classifier(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_drawn_images_differ_enough_to_tell_models_apart() -> None:
    images = random_images(max(BATCHES), 32).float()
    flat = images.flatten(1)
    assert torch.pdist(flat).min() > 0.1 * flat.norm(dim=1).max()
    assert torch.equal(images, random_images(max(BATCHES), 32).float())


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    """model.onnx of the trained run."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    return export(load_run(trained, ["metrics.threshold=0.3"]), trained, Options())


def test_the_script_of_the_docs_gives_mltrains_answers_without_mltrain(
    exported: Path, trained: Path, tmp_path: Path
) -> None:
    script = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)
    assert script is not None
    blocked = "import sys\nfor name in ('torch', 'mltrain', 'torchvision', 'timm'):\n    sys.modules[name] = None\n"
    (tmp_path / "use.py").write_text(
        blocked + script.group(1) + "\nprint(json.dumps([class_names, probabilities.tolist()]))\n"
    )
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    shown = Image.fromarray(pixels).resize((48, 36))
    shown.save(tmp_path / "other.png")
    shown.resize((32, 32)).save(tmp_path / "same.png")
    done = subprocess.run(
        [sys.executable, "use.py", str(exported), "same.png", "other.png"],
        cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *lines, answer = done.stdout.splitlines()
    names, found = json.loads(answer)
    run = load_finished(trained)
    resize = EvalResize(image_size=32)
    images = torch.stack([resize(read_image(tmp_path / name)) for name in ("same.png", "other.png")])
    with torch.no_grad():
        expected = run.model(images).sigmoid().numpy()
    assert tuple(names) == run.class_names
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-2)
    predicted = [name for name, p in zip(names, found[0], strict=True) if p > 0.3]
    assert lines[0].startswith("same.png: ")
    assert re.findall(r"([\w ]+) 0\.\d{3}", lines[0].removeprefix("same.png:").replace(",", "")) == [
        f" {name}" for name in predicted
    ]


def test_the_file_holds_no_path_of_the_machine(exported: Path, trained: Path) -> None:
    content = exported.read_bytes()
    for place in (str(ROOT), str(trained), torch.__path__[0]):
        assert place.encode() not in content


def test_a_run_is_checked_on_real_images_and_its_thresholds_are_stored(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    finished = load_finished(run)
    cuts = [round(0.1 + 0.01 * k, 2) for k in range(len(finished.class_names))]
    best = {key: finished.best[key] for key in ("epoch", "step")}
    content = {"class_names": finished.class_names, "thresholds": cuts, "weights": finished.weights, "best": best}
    content |= {"chosen_by": "F1 of each class", "tuned_on": {"name": "shapes/val"}}
    (run / "thresholds.json").write_text(json.dumps(content))
    (tmp_path / "photos").mkdir()
    options = Options(images=f"{tmp_path}/photos", out=f"{tmp_path}/model.pt2")
    with pytest.raises(ConfigError, match="neither an image nor a folder"):
        export(load_run(run), run, options)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / "red.jpg")
    checked: list[Tensor] = []
    check = models_export._check
    monkeypatch.setattr(models_export, "_check", lambda *a: checked.append(a[2]) or check(*a))  # type: ignore[func-returns-value]
    export(load_run(run), run, options)
    assert checked[0].shape == (1, 3, 32, 32)
    assert (checked[0][:, 0] > 250).all()
    assert (checked[0][:, 1:] < 5).all()
    extra = {"metadata.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    metadata = json.loads(extra["metadata.json"])
    assert metadata["thresholds"] == cuts
    assert metadata["thresholds_from"] == "tuned for F1 of each class on shapes/val"
