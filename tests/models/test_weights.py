"""Weights files: what is read, what is refused, what is reported."""

from __future__ import annotations

import argparse
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mltrain.errors import CheckpointError
from mltrain.models import create_backbone
from mltrain.models.weights import load_by_name, read_checkpoint, read_state_dict

SIZE = 64


@pytest.fixture(scope="module")
def donor() -> dict[str, Tensor]:
    """Weights of a resnet10t, batch statistics and classifier included."""
    torch.manual_seed(1)
    state = create_backbone(name="resnet10t", image_size=SIZE).model.state_dict()
    return {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in state.items()}


def _load(path: Path, **options: object) -> nn.Module:
    return create_backbone(name="resnet10t", image_size=SIZE, checkpoint=str(path), **options)


def _same(backbone: nn.Module, donor: dict[str, Tensor]) -> bool:
    state = backbone.model.state_dict()
    return all(torch.equal(state[k], v) for k, v in donor.items())


@pytest.mark.parametrize("container", [None, "model", "state_dict", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "backbone.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "backbone.model."],
)
def test_weights_load_from_any_usual_container_and_prefix(
    tmp_path: Path, donor: dict[str, Tensor], container: str | None, prefix: str
) -> None:
    state = {f"{prefix}{k}": v for k, v in donor.items()} | {"head.fc.weight": torch.zeros(3, 512)}
    path = tmp_path / "weights.pth.tar"
    torch.save(state if container is None else {container: state, "epoch": 3}, path)
    backbone = _load(path)
    assert _same(backbone, donor)
    assert set(backbone.load_report.loaded) == set(donor)
    assert backbone.load_report.skipped == ("head.fc.weight",)
    assert not backbone.load_report.missing


def test_averaged_weights_are_preferred(tmp_path: Path, donor: dict[str, Tensor]) -> None:
    torch.save({"state_dict": {k: v * 0 for k, v in donor.items()}, "state_dict_ema": donor}, tmp_path / "w.pt")
    assert _same(_load(tmp_path / "w.pt"), donor)


def test_safetensors_load_and_the_other_tasks_classifier_is_reported(
    tmp_path: Path, donor: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    save_file(donor | {"fc.weight": torch.zeros(1000, 512)}, tmp_path / "w.safetensors")
    with caplog.at_level("INFO"):
        backbone = _load(tmp_path / "w.safetensors")
    assert _same(backbone, donor)
    assert str(backbone.load_report).endswith(f"{len(donor)} tensors loaded\n  skipped 1: fc.weight")
    assert caplog.messages[-1].endswith("  skipped 1: fc.weight\n  only a backbone is read: the head starts untrained")


def test_a_missing_weight_is_refused_by_name_unless_partial(tmp_path: Path, donor: dict[str, Tensor]) -> None:
    state = {k: v for k, v in donor.items() if not k.startswith("layer4.") and not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"(?s)missing .*layer4\.0\.conv1\.weight.*partial_checkpoint=true"):
        _load(tmp_path / "w.pt")
    backbone = _load(tmp_path / "w.pt", partial_checkpoint=True)
    assert _same(backbone, state)
    assert all(k.startswith("layer4.") for k in backbone.load_report.missing)
    assert "layer4.0.conv1.weight" in backbone.load_report.missing


def test_a_weight_of_another_shape_is_refused_with_both_shapes_and_nothing_is_copied(donor: dict[str, Tensor]) -> None:
    model = create_backbone(name="resnet10t", image_size=SIZE).model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = donor | {"layer1.0.conv1.weight": torch.zeros(64, 32, 3, 3)}
    with pytest.raises(CheckpointError, match=r"layer1.0.conv1.weight: file \(64, 32, 3, 3\), model \(64, 64, 3, 3\)"):
        load_by_name(model, state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_weights_of_another_architecture_are_refused(tmp_path: Path, donor: dict[str, Tensor]) -> None:
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="no tensor fits"):
        _load(tmp_path / "w.pt", partial_checkpoint=True)


class _Malicious:
    def __reduce__(self) -> tuple:
        return os.system, ("touch pwned",)


def test_code_in_a_weights_file_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": torch.zeros(2)}, "args": _Malicious()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: refused"):
        read_state_dict(tmp_path / "w.pth")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_damaged_empty_and_absent_files_are_named(tmp_path: Path, name: str, donor: dict[str, Tensor]) -> None:
    path = tmp_path / name
    with pytest.raises(CheckpointError, match=f"{name}: no such file"):
        read_state_dict(path)
    path.write_bytes(b"not weights at all")
    with pytest.raises(CheckpointError, match=name):
        read_state_dict(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=name):
        read_state_dict(path)


def test_a_file_without_tensors_says_what_is_expected(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="state_dict"):
        read_state_dict(tmp_path / "w.pt")


def test_position_embeddings_are_resampled_to_the_image_size_and_reported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = create_backbone(name="vit_tiny_patch16_224", image_size=64).model.state_dict()
    source["pos_embed"] = torch.linspace(0, 1, 17).view(1, 17, 1).expand(1, 17, 192).contiguous()
    torch.save(source, tmp_path / "w.pt")
    backbone = create_backbone(name="vit_tiny_patch16_224", image_size=128, checkpoint=str(tmp_path / "w.pt"))
    assert backbone.load_report.reshaped == ("pos_embed",)
    grid = backbone.model.pos_embed[0, 1:, 0].view(8, 8)
    assert (grid[:, 1:] > grid[:, :-1]).all()
    assert (grid[1:] > grid[:-1]).all()
    assert torch.equal(backbone.model.blocks[0].attn.qkv.weight, source["blocks.0.attn.qkv.weight"])


def test_published_tresnet_names_are_converted(tmp_path: Path) -> None:
    backbone = create_backbone(name="tresnet_m", image_size=SIZE)
    official = {}
    for key, value in backbone.model.state_dict().items():
        value = torch.rand_like(value) + 0.5 if value.is_floating_point() else value
        blur = "layer" in key and ".conv" in key and key.split(".")[1] != "layer1" and key.split(".")[2] == "0"
        first = ".0.0." if blur and ".conv1." in key and "layer" in key else ".0."
        second = ".0.1." if blur and ".conv1." in key and "layer" in key else ".1."
        official["module." + key.replace(".conv.", first).replace(".bn.", second)] = value
    torch.save({"model": official, "num_classes": 80}, tmp_path / "w.pth")
    loaded = create_backbone(name="tresnet_m", image_size=SIZE, checkpoint=str(tmp_path / "w.pth"))
    assert not loaded.load_report.missing
    state = loaded.model.state_dict()
    torch.testing.assert_close(state["body.conv1.conv.weight"], official["module.body.conv1.0.weight"])
    torch.testing.assert_close(state["body.conv1.bn.weight"], official["module.body.conv1.1.weight"] + 1e-5)


def test_the_shared_mobilenet_weights_load_completely(shared_weights: Path) -> None:
    path = shared_weights / "mobilenetv2_100_imagenet1k.safetensors"
    if not path.is_file():
        pytest.skip("no MobileNetV2 weights beside this checkout")
    backbone = create_backbone(name="mobilenetv2_100", checkpoint=str(path), timm_kwargs={"pad_type": "same"})
    assert backbone.load_report.skipped == ("classifier.bias", "classifier.weight")
    counters = {k for k in backbone.model.state_dict() if k.endswith("num_batches_tracked")}
    assert set(backbone.load_report.loaded) == set(backbone.model.state_dict()) - counters
    assert _same(backbone, {k: v for k, v in read_state_dict(path).items() if not k.startswith("classifier")})


@pytest.mark.parametrize("chosen", ["val", "ema"])
def test_a_run_folder_gives_the_weights_that_validation_chose(
    tmp_path: Path, donor: dict[str, Tensor], chosen: str
) -> None:
    model = {f"backbone.model.{k}": v for k, v in donor.items()} | {"mean": torch.zeros(3, 1, 1)}
    other = {k: v * 0 for k, v in model.items()}
    raw, averaged = (model, other) if chosen == "val" else (other, model)
    state = {"model": raw, "ema": {"updates": 3, "module": averaged}, "best": {"weights": chosen}}
    torch.save(state, tmp_path / "best.pt")
    assert _same(_load(tmp_path), donor)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"without best\.pt or model\.safetensors"):
        read_state_dict(tmp_path)


def test_settings_and_numpy_numbers_are_read_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("easydict")
    settings = type("EasyDict", (dict,), {"__module__": "easydict"})
    module.EasyDict = settings
    monkeypatch.setitem(sys.modules, "easydict", module)
    args = argparse.Namespace(model=settings(depth=50))
    torch.save({"args": args, "best": np.float32(0.5), "order": np.arange(3)}, tmp_path / "w.pth")
    monkeypatch.delitem(sys.modules, "easydict")
    content = read_checkpoint(tmp_path / "w.pth")
    assert dict(content["args"].model) == {"depth": 50}
    assert content["best"] == 0.5 and content["order"].tolist() == [0, 1, 2]


class _ObjectScalar:
    """A NumPy scalar of type object could hold anything."""

    def __reduce__(self) -> tuple:
        return np.float64(0).__reduce__()[0], (np.dtype("O"), b"cos\nsystem\n(S'touch pwned'\ntR.")


def test_numpy_numbers_are_no_way_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.zeros(2), "best": _ObjectScalar()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="refused"):
        read_checkpoint(tmp_path / "w.pth")
    assert not (tmp_path / "pwned").exists()
