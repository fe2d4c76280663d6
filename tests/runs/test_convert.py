"""Published checkpoints: what is recognised, that it gives the published logits, and what is refused."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from mltrain.commands.evaluate import evaluate
from mltrain.config.build import instantiate, load
from mltrain.config.compose import load_run
from mltrain.errors import CheckpointError, ConfigError, MltrainError
from mltrain.metrics import average_precision
from mltrain.models.published import TRESNETS, clean_names, names_by_id, names_of, recognise
from mltrain.models.weights import read_state_dict
from mltrain.pipeline.loader import EvalLoader
from mltrain.runs.convert import convert
from mltrain.runs.folder import FinishedRun, load_finished
from mltrain.runs.zoo import SOURCE_FILE
from tests.models import published_models as theirs
from tests.promises.runs import fit

NAMES = ["red fox", "tree", "river", "cat", "night"]
SMALL = (1, 2, 2, 1)
SIZE = ["model.image_size=64"]
IMAGENET = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def tresnet(head: nn.Module, *, second: bool = False, pooled: bool = True) -> nn.Module:
    return theirs.TResNet(SMALL, 16, second, head, pooled=pooled)


def query2label_tresnet() -> nn.Module:
    body = tresnet(nn.Identity())
    del body.head
    return theirs.Query2Label(body, 512, 5, size=64, dim=None, ffn=40)


def random_resnet(**kwargs: Any) -> nn.Module:
    return theirs.Query2Label(theirs.ResNet((1, 1, 1, 1)), 2048, 5, size=64, dim=32, ffn=40, **kwargs)


# published model, what of it is recognised, normalised as ImageNet, KEY=VALUE that no tensor tells
LAYOUTS: dict[str, tuple[Callable[[], nn.Module], str, bool, list[str]]] = {
    "asl_v1": (lambda: tresnet(theirs.Linear(512, 5)), "V1, basic blocks first.*linear head for 5", False, []),
    "asl_v2_bottleneck": (
        lambda: tresnet(theirs.Bottleneck(512, 5), second=True),
        "V2, bottleneck blocks.*behind a bottleneck of 512 for 5",
        False,
        [],
    ),
    "ml_decoder": (
        lambda: tresnet(theirs.MLDecoder(512, 5), second=True, pooled=False),
        "V2.*ML-Decoder with 5 groups of 1 for 5 classes",
        False,
        [],
    ),
    "ml_decoder_groups": (
        lambda: tresnet(theirs.MLDecoder(512, 5, groups=2, width=96), pooled=False),
        "V1.*ML-Decoder with 2 groups of 3 for 5 classes",
        False,
        [],
    ),
    "resnet_ml_decoder": (
        lambda: theirs.ResNetMLDecoder((1, 1, 1, 1), 5),
        "ResNet.*blocks 1, 1, 1, 1.*ML-Decoder with 5 groups",
        True,
        [],
    ),
    "resnet_linear": (lambda: theirs.ResNetLinear((1, 1, 1, 1), 5), "ResNet.*linear head for 5", True, []),
    "csra": (lambda: theirs.CSRA((1, 1, 1, 1), 5, 4, 0.7), "CSRA with 4 heads for 5", False, ["head.lam=0.7"]),
    "distribution_balanced": (
        lambda: theirs.DistributionBalanced((1, 1, 1, 1), 5),
        r"PFC neck and linear head for 5 classes \(width 256\)",
        True,
        [],
    ),
    "query2label": (random_resnet, r"Query2Label for 5 classes \(1 \+ 2 layers, width 32, made for 64 px", True, []),
    "query2label_tresnet": (query2label_tresnet, "V1.*Query2Label for 5 classes.*width 512", False, []),
}


def save(path: Path, state: dict[str, Tensor], **content: Any) -> Path:
    torch.save({"model": state, **content}, path)
    return path


def assert_same_logits(run: FinishedRun, model: nn.Module, imagenet: bool) -> None:
    """To 1e-5 of the largest logit; images of 0..255 here, of 0..1 or normalised there."""
    images = torch.randint(0, 256, (2, 3, run.image_size, run.image_size), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model((images / 255 - IMAGENET[0]) / IMAGENET[1] if imagenet else images / 255)
        found = run.model(images)
    assert expected.std(0).max() > 1e-3, "the images must show in the logits"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_file_becomes_a_run_with_the_published_logits(layout: str, tmp_path: Path) -> None:
    make, pattern, imagenet, words = LAYOUTS[layout]
    model = theirs.randomised(make())
    file = save(tmp_path / "w.pth", model.state_dict(), num_classes=5, idx_to_class=dict(enumerate(NAMES)))
    size = [] if "query2label" in layout else ["model.image_size=64"]
    folder = convert(file, [*size, *words], out=tmp_path / "run")
    run = load_finished(folder)
    source = json.loads((folder / SOURCE_FILE).read_text())
    assert re.search(pattern, source["recognised"])
    assert run.class_names == tuple(NAMES) and run.stats is None and run.image_size == 64
    assert_same_logits(run, model, imagenet)


def test_a_zero_shot_file_answers_for_the_classes_it_is_given(tmp_path: Path) -> None:
    words = torch.randn(3, 20, generator=torch.Generator().manual_seed(5))
    model = theirs.randomised(tresnet(theirs.MLDecoder(512, 3, width=96, words=words), pooled=False))
    file = save(tmp_path / "w.pth", model.state_dict())
    np.savez(tmp_path / "e.npz", class_names=np.array(NAMES[:3]), vectors=words.numpy())
    embeddings = [f"head.embeddings={tmp_path}/e.npz", "model.image_size=64"]
    with pytest.raises(ConfigError, match="any classes: name them"):
        convert(file, embeddings, out=tmp_path / "run")
    (tmp_path / "c.txt").write_text("\n".join(NAMES[:3]))
    folder = convert(file, embeddings, out=tmp_path / "run", classes=str(tmp_path / "c.txt"))
    (tmp_path / "e.npz").unlink()  # the folder has what it needs
    assert_same_logits(load_finished(folder), model, False)


@pytest.mark.parametrize(("key", "name"), list(TRESNETS.items()), ids=list(TRESNETS.values()))
def test_every_tresnet_is_known_by_its_tensors_which_fit_its_model(key: tuple, name: str) -> None:
    blocks, second, planes = key
    with torch.device("meta"):
        model = theirs.TResNet(blocks, planes, second, theirs.Linear(32 * planes, 80), pooled=True)
    ours = timm.create_model(name, num_classes=80)  # not on meta: timm 1.0.20 reads numbers from its tensors
    published = recognise({"model": model.state_dict()}, source="w.pth")
    assert published.backbone.options["name"] == name
    filtered = timm.models.tresnet.checkpoint_filter_fn(dict(model.state_dict()), ours)
    needed = {k: v.shape for k, v in ours.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {k: v.shape for k, v in filtered.items()} == needed


@pytest.mark.slow
@pytest.mark.parametrize(("key", "name"), list(TRESNETS.items()), ids=list(TRESNETS.values()))
def test_every_tresnet_of_full_size_gives_the_published_logits(key: tuple, name: str, tmp_path: Path) -> None:
    """In fp64, for fp32 rounds to 1e-4 on the way through so many layers of random weights."""
    blocks, second, planes = key
    head = theirs.Linear(32 * planes, 80)
    model = theirs.randomised(theirs.TResNet(blocks, planes, second, head, pooled=True), gain=0.7)
    run = load_finished(convert(save(tmp_path / "w.pth", model.state_dict()), SIZE, out=tmp_path / "run"))
    assert run.config.model.name == name
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1)).double()
    with torch.inference_mode():
        expected, found = model.double()(images / 255), run.model.double()(images)
    assert expected.std(0).max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_scales_of_inplace_abn_are_folded_with_their_eps(tmp_path: Path) -> None:
    model = theirs.randomised(tresnet(theirs.Linear(512, 5)))
    scale = model.body.conv1[1].weight
    with torch.no_grad():
        scale[:4] = torch.tensor([0.0, -0.5, 0.5, -1e-5])
    folder = convert(save(tmp_path / "w.pth", model.state_dict()), SIZE, out=tmp_path / "run")
    found = load_finished(folder).model.backbone.model.body.conv1.bn.weight
    torch.testing.assert_close(found, scale.abs() + 1e-5, rtol=0, atol=0)
    assert found[0] == 1e-5


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    """ASL's layout, 5 classes."""
    return theirs.randomised(tresnet(theirs.Linear(512, 5))).state_dict()


def test_wrappers_settings_and_numpy_numbers_in_the_file_are_no_obstacle(
    plain: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = {
        "state_dict": {f"module.{k}": v for k, v in plain.items()},
        "args": argparse.Namespace(lr=1e-4),
        "best_mAP": np.float64(80.1),
        "idx_to_class": {str(k): np.str_(name) for k, name in enumerate(NAMES)},
    }
    torch.save(content, tmp_path / "net_64_224.pth")
    caplog.set_level(logging.INFO, logger="mltrain")
    folder = convert(tmp_path / "net_64_224.pth", out=tmp_path / "run")
    assert load_finished(folder).class_names == tuple(NAMES)
    assert load_finished(folder).image_size == 224
    assert "model.image_size=224 (in the file's name)" in caplog.text
    before = caplog.text.count("converted before")
    assert convert(tmp_path / "net_64_224.pth", out=tmp_path / "run") == folder
    assert caplog.text.count("converted before") == before + 1


def test_code_in_a_published_file_is_not_run(plain: dict[str, Tensor], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return exec, (f"open({str(tmp_path / 'pwned')!r}, 'w')",)

    save(tmp_path / "w.pth", plain, idx_to_class=Evil())
    with pytest.raises(CheckpointError, match=r"w\.pth: refused, because it asks for exec"):
        convert(tmp_path / "w.pth", out=tmp_path / "run")
    assert not (tmp_path / "pwned").exists() and not (tmp_path / "run").exists()


def changed(state: dict[str, Tensor], **tensors: Tensor | None) -> dict[str, Tensor]:
    merged = state | {k.replace("__", "."): v for k, v in tensors.items()}
    return {k: v for k, v in merged.items() if v is not None}


@pytest.mark.parametrize(
    ("tensors", "content", "words", "message"),
    [
        ({"head__fc__weight": torch.zeros(5, 300)}, {}, [], "reads 300 features and the backbone gives 512"),
        ({}, {"num_classes": 80}, [], "says num_classes=80, but its head gives 5 logits"),
        ({}, {"idx_to_class": {0: "a", 1: "b"}}, [], "names 2 classes, and its head gives 5 logits"),
        ({}, {}, ["classes"], "names.txt: 4 classes, and the head of .* gives 5 logits"),
        ({}, {}, ["model.name=tresnet_l"], "model.name=tresnet_l, but the file holds a TResNet .blocks 1, 2, 2, 1, V1"),
        ({}, {}, ["head.bottleneck=7"], r"(?s)missing 2: bottleneck.weight.*mismatched 1: fc.weight: file \(5, 512\)"),
        ({"head__gate": torch.zeros(3)}, {}, [], r"a TResNet .*linear head for 5.*Not recognised: head.gate"),
        ({"head__fc__weight": None, "head__fc__bias": None}, {}, [], "no classifier: .* model.checkpoint="),
        ({"head__fc__weight": None}, {}, [], r"recognised a TResNet .* but no head in head.fc.bias \(5,\)"),
        ({"body__layer5__0__conv1__weight": torch.zeros(3)}, {}, [], "no place for what was skipped"),
        ({"body__layer3__1__conv2__0__weight": None}, {}, [], r"missing 1: body.layer3.1.conv2.conv.weight"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_numbers_that_disagree(
    plain: dict[str, Tensor],
    tmp_path: Path,
    tensors: dict[str, Tensor | None],
    content: dict[str, Any],
    words: list[str],
    message: str,
) -> None:
    file = save(tmp_path / "w.pth", changed(plain, **tensors), **content)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    classes = str(tmp_path / "names.txt") if words == ["classes"] else None
    given = [word for word in words if word != "classes"]
    with pytest.raises(MltrainError, match=message):
        convert(file, [*SIZE, *given], out=tmp_path / "run", classes=classes)
    assert not (tmp_path / "run").exists()


def test_an_unknown_layout_says_what_it_holds_and_what_helps(tmp_path: Path) -> None:
    file = save(tmp_path / "w.pth", {"encoder.weight": torch.zeros(3, 4), "decoder.bias": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"no backbone.*encoder.weight \(3, 4\), decoder.bias \(2,\).*model.name"):
        convert(file, out=tmp_path / "run")


def test_a_folder_that_is_no_conversion_is_never_replaced(plain: dict[str, Tensor], tmp_path: Path) -> None:
    file = save(tmp_path / "w.pth", plain)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is no converted checkpoint"):
        convert(file, SIZE, out=tmp_path / "mine", overwrite=True)
    folder = convert(file, SIZE, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="with other options; overwrite=true"):
        convert(file, ["model.image_size=96"], out=tmp_path / "run")
    convert(file, ["model.image_size=96"], out=tmp_path / "run", overwrite=True)
    assert load_finished(folder).image_size == 96


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"idx_to_class": {"1": "b", "0": "a"}}, ("a", "b")),
        ({"idx_to_class": ["a", "b"]}, ("a", "b")),
        ({"idx_to_class": {0: "a", 2: "c"}}, None),  # a class is missing: which logit is whose cannot be said
        ({"meta": {"CLASSES": ("a", "b"), "epoch": 8}}, ("a", "b")),
        ({"epoch": 8}, None),
    ],
)
def test_class_names_are_read_by_index(content: dict[str, Any], names: tuple[str, ...] | None) -> None:
    assert names_of(content) == names


def test_names_cut_up_by_a_csv_are_repaired_as_far_as_they_can_be() -> None:
    names, notes = clean_names(['"""Pig\'s organ soup"""', "'Cat'", "and melon family'", 'pentathlon"""', "Dog", "Dog"])
    assert names == ("Pig's organ soup", "Cat", "and melon family'", 'pentathlon"""', "Dog", "Dog (2)")
    assert [note.split(" class names")[0] for note in notes] == ["2", "2", "1"]
    assert clean_names(NAMES) == (tuple(NAMES), [])


def test_ids_get_their_names_from_a_csv_of_descriptions(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text('LabelName,DisplayName\n/m/1,"Apple, red"\n/m/2,Pear\n/m/3,Pear\n/m/4,Fig\n')
    assert names_by_id(["/m/4", "/m/1"], tmp_path / "d.csv") == ("Fig", "Apple, red")
    assert names_by_id(["/m/2", "/m/3"], tmp_path / "d.csv") == ("Pear (/m/2)", "Pear (/m/3)")
    with pytest.raises(MltrainError, match="no name for 1 of 2 classes, the first '/m/9'"):
        names_by_id(["/m/9", "/m/1"], tmp_path / "d.csv")


# -- timm's own files ------------------------------------------------------------------------------------------------


def test_a_file_of_timms_is_converted_by_name_and_checked_against_timm(tmp_path: Path) -> None:
    model = theirs.randomised(timm.create_model("test_resnet", num_classes=5))
    file = tmp_path / "checkpoint.pth.tar"
    torch.save({"arch": "test_resnet", "state_dict": model.state_dict(), "args": argparse.Namespace()}, file)
    run = load_finished(convert(file, SIZE, out=tmp_path / "run"))
    images = torch.randint(0, 256, (2, 3, 64, 64)).float()
    with torch.inference_mode():
        torch.testing.assert_close(run.model(images), model(run.model.normalize(images)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "words", "refused"),
    [
        ("test_vit", 160, [], "head.tokens=patches"),  # its class token
        # attention pooling, and a hidden layer
        pytest.param("test_vit3", 160, ["model.pool=timm"], "model.pool=head", marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_050", 64, ["model.pool=timm"], "model.pool=head", marks=pytest.mark.slow),
    ],
)
def test_a_model_of_timms_is_converted_with_what_its_classifier_works_on(
    name: str, size: int, words: list[str], refused: str, tmp_path: Path
) -> None:
    model = theirs.randomised(timm.create_model(name, num_classes=5))
    file = save(tmp_path / "w.pth", model.state_dict())
    given = [f"model.name={name}", f"model.image_size={size}"]
    with pytest.raises(CheckpointError, match=r"[aA]dd model.pool=timm"):
        convert(file, [*given, refused], out=tmp_path / "no")
    run = load_finished(convert(file, [*given, *words], out=tmp_path / "run"))
    images = torch.randint(0, 256, (2, 3, size, size)).float()
    with torch.inference_mode():
        torch.testing.assert_close(run.model(images), model(run.model.normalize(images)), rtol=1e-4, atol=1e-4)


def test_csra_on_a_vit_reads_the_patches_alone(tmp_path: Path) -> None:
    body = timm.create_model("test_vit", num_classes=0)
    body.classifier = nn.Module()
    body.classifier.multi_head = nn.ModuleList([nn.Module()])
    body.classifier.multi_head[0].head = nn.Conv2d(body.num_features, 5, 1, bias=False)
    theirs.randomised(body)
    file = save(tmp_path / "w.pth", body.state_dict())
    words = ["model.name=test_vit", "head.lam=0.3", "model.image_size=160"]
    run = load_finished(convert(file, words, out=tmp_path / "run"))
    images = torch.randint(0, 256, (2, 3, 160, 160)).float()
    with torch.inference_mode():
        weight = body.classifier.multi_head[0].head.weight.flatten(1)
        scores = body.forward_features(images / 255)[:, 1:] @ (weight / weight.norm(dim=1, keepdim=True)).T
        expected = scores.mean(1) + 0.3 * (scores * scores.softmax(1)).sum(1)
        torch.testing.assert_close(run.model(images), expected, rtol=0, atol=1e-4)


def test_query2label_on_a_model_of_timms_is_converted_by_name(tmp_path: Path) -> None:
    body = timm.create_model("test_resnet", num_classes=0)
    body.features = body.forward_features
    model = theirs.randomised(theirs.Query2Label(body, body.num_features, 5, size=64, dim=32, ffn=40))
    file = save(tmp_path / "w.pth", model.state_dict())
    run = load_finished(convert(file, ["model.name=test_resnet"], out=tmp_path / "run"))
    images = torch.randint(0, 256, (2, 3, 64, 64)).float()
    with torch.inference_mode():
        torch.testing.assert_close(run.model(images), model(run.model.normalize(images)), rtol=0, atol=1e-5)


# -- the run folder in use -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes_run(tmp_path_factory: pytest.TempPathFactory, plain: dict[str, Tensor]) -> Path:
    """A conversion whose classes are those of the drawn shapes, in another order."""
    folder = tmp_path_factory.mktemp("shapes")
    names = instantiate(load(["dataset=shapes"]).dataset, "dataset").train.class_names
    model = theirs.randomised(tresnet(theirs.Linear(512, len(names))))
    file = save(folder / "w.pth", model.state_dict(), idx_to_class=dict(enumerate(reversed(names))))
    options = ["dataset=shapes", "dataset.num_train=40", "dataset.num_val=24", "dataset.image_size=32"]
    return convert(file, ["model.image_size=64", *options], out=folder / "run")


def test_a_converted_run_is_evaluated_with_the_classes_in_its_own_order(
    shapes_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mltrain")
    cfg = load_run(shapes_run, ["dataset=shapes", "runner.device=cpu", "runner.amp=off", "data.num_workers=0"])
    result = evaluate(cfg, shapes_run)
    assert "classes put in the order of the model's" in caplog.text
    run = load_finished(shapes_run)
    labels = instantiate(run.config.dataset, "dataset").val
    resize = instantiate(run.config.eval_resize, "eval_resize", image_size=64)
    loader = EvalLoader(labels, resize, batch_size=24, num_workers=0, pin_memory=False)
    with torch.inference_mode():
        logits = torch.cat([run.model(batch.images) for batch in loader])
    columns = [run.class_names.index(name) for name in labels.class_names]
    assert columns == list(reversed(range(len(columns))))
    expected = 100 * float(average_precision(logits[:, columns], torch.from_numpy(labels.dense())).nanmean())
    assert result is not None and result["val"]["map"] == pytest.approx(expected, abs=1e-3)
    assert json.loads((shapes_run / "evaluation.json").read_text())["val"]["map"] == result["val"]["map"]


def test_a_converted_run_meets_other_classes_with_a_message(shapes_run: Path) -> None:
    cfg = load_run(shapes_run, ["dataset=digits", "runner.device=cpu"])
    with pytest.raises(CheckpointError, match=r"the checkpoint has .* classes, the dataset 10"):
        evaluate(cfg, shapes_run)


def test_training_starts_from_a_converted_run_or_its_file(shapes_run: Path, tmp_path: Path) -> None:
    expected = load_finished(shapes_run).model.backbone.state_dict()
    common = [
        "dataset=shapes", "dataset.num_train=16", "dataset.num_val=8", "dataset.image_size=32", "model=timm",
        "model.name=tresnet_m", "model.timm_kwargs={layers: [1, 2, 2, 1], width_factor: 0.25}", "model.image_size=64",
        "model.freeze_stages=-1", "model.pretrained=false", "runner.batch_size=16", "runner.epochs=1", "ema=none",
        "runner.amp=off", "runner.device=cpu", "data.num_workers=0", "logger.tensorboard=false", "logger.progress=off",
        "logger.report=false", "augment=none",
    ]  # fmt: skip
    for number, start in enumerate((shapes_run, shapes_run.parent / "w.pth")):
        folder = fit([*common, f"model.checkpoint={start}", f"paths.runs={tmp_path / str(number)}"])
        trained = load_finished(folder).model.backbone.state_dict()
        assert all(torch.equal(trained[k], v) for k, v in expected.items())
        again = read_state_dict(folder)
        assert all(torch.equal(again[f"backbone.{k}"], v) for k, v in expected.items())
