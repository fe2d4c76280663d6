"""Several runs and several views of an image predict the mean of their probabilities."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from mltrain.cli import execute
from mltrain.commands import evaluate, predict
from mltrain.config.compose import load_run
from mltrain.errors import ConfigError
from mltrain.models.backbone import Features
from mltrain.models.classifier import create_classifier
from mltrain.models.ensemble import mean_logits
from mltrain.pipeline.augment import EvalResize
from mltrain.pipeline.views import SeveralResizes, resizes_for, views
from mltrain.runs.ensemble import Averager, Member
from mltrain.runs.predictor import Predictor
from mltrain.runs.same_data import trained_on


def probabilities(logits: Tensor) -> Tensor:
    return logits.double().sigmoid()


# -- the mean --------------------------------------------------------------------------------------------------------


def test_the_mean_is_of_probabilities() -> None:
    one, two = torch.tensor([[0.3, -2.0, 4.0]]), torch.tensor([[-1.0, 0.5, 2.0]])
    found = mean_logits([one, two], single_label=False)
    torch.testing.assert_close(probabilities(found), (probabilities(one) + probabilities(two)) / 2, rtol=1e-6, atol=0)
    found = mean_logits([one, two], single_label=True)
    expected = (one.double().softmax(1) + two.double().softmax(1)) / 2
    torch.testing.assert_close(found.double().softmax(1), expected, rtol=1e-6, atol=0)
    assert torch.equal(mean_logits([one], single_label=True), one), "one prediction stays as it is"


def test_probabilities_next_to_one_stay_apart() -> None:
    """Their sigmoids are equal in fp32, and from 37 on in fp64 too."""
    logits = torch.tensor([[20.0, 45.0, 90.0, -90.0]])
    found = mean_logits([logits, logits], single_label=False)
    torch.testing.assert_close(found, logits, rtol=1e-6, atol=0)
    assert mean_logits([logits, -logits], single_label=False).abs().max() < 1e-6
    assert mean_logits([logits, logits - 1000], single_label=False).isfinite().all()


# -- views -----------------------------------------------------------------------------------------------------------


def picture(height: int = 40, width: int = 52) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_several_sizes_travel_in_one_batch() -> None:
    resizes = [EvalResize(image_size=size, resize="crop") for size in (7, 12, 30)]
    packed = SeveralResizes(resizes)
    assert packed.image_size**2 >= sum(size**2 for size in (7, 12, 30)) > (packed.image_size - 1) ** 2
    images = [picture(), picture(33, 31)]
    batch = torch.stack([packed(image) for image in images])
    for memory_format in (torch.channels_last, torch.contiguous_format):
        found = packed.unpack(batch.contiguous(memory_format=memory_format))
        for resize, part in zip(resizes, found, strict=True):
            assert torch.equal(part, torch.stack([resize(image) for image in images]))


def test_views_are_what_their_names_say() -> None:
    def resize(size: int) -> EvalResize:
        return EvalResize(image_size=size, resize="crop", crop_pct=0.875)

    images = torch.arange(64 * 64).view(1, 1, 64, 64)
    assert [view.shape[-1] for view in views(None, [images], 64)] == [64]
    plain, mirrored = views("flip", [images], 64)
    assert torch.equal(plain, images) and torch.equal(mirrored, torch.flip(images, (3,)))
    first, second, third, fourth, centre = views("five_crop", [images], 56)
    assert first[0, 0, 0, 0] == 0 and second[0, 0, 0, 0] == 8 and third[0, 0, 0, 0] == 8 * 64
    assert fourth[0, 0, -1, -1] == 64 * 64 - 1 and centre[0, 0, 0, 0] == 4 * 64 + 4
    (larger,) = resizes_for("five_crop", resize, 56, step=(1, 1))
    assert larger.image_size == 64
    for shape in ((80, 64), (64, 91), (300, 200)):
        image = picture(*shape)
        *_, centre = views("five_crop", [larger(image)[None]], 56)
        assert torch.equal(centre[0], resize(56)(image)), "the centre is the usual view"
    squish = resizes_for("five_crop", lambda size: EvalResize(image_size=size), 224, step=(1, 1))
    assert squish[0].image_size == 256, "as Krizhevsky et al."
    sizes = [[r.image_size for r in resizes_for("sizes", resize, size, step=(32, 32))] for size in (224, 448, 64)]
    assert sizes == [[192, 224, 256], [384, 448, 512], [32, 64, 96]]
    with pytest.raises(ValueError, match="no smaller one"):
        resizes_for("sizes", resize, 32, step=(32, 32))


class Toy(nn.Module):
    """Scores of the mean red, green and blue of the left half, in places of 4 pixels: a mirror image has others."""

    mean: Tensor

    def __init__(self, size: int, scale: float = 1.0) -> None:
        super().__init__()
        given = {"image_size": size, "step": (4, 4), "check_size": lambda self, size: None}
        self.backbone = type("Input", (), given)()
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.scale = scale

    def features(self, images: Tensor) -> Features:
        side = images.shape[-1] // 4
        left = images.float()[..., : images.shape[-1] // 2]
        return Features(left.flatten(2).transpose(1, 2), (side, side), left.new_zeros(len(left), 0, 3))

    def classify(self, features: Features) -> Tensor:
        return self.scale * (features.tokens.mean(1) / 64 - 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


def member(model: Any, names: str = "abc", *, folder: str = "run", **eval_resize: Any) -> Member:
    resize = {"_target_": "mltrain.pipeline.augment.EvalResize", **eval_resize}
    cfg = OmegaConf.create({"task": "multi_label", "eval_resize": resize, "model": {"name": "toy"}})
    assert isinstance(cfg, DictConfig)
    return Member(Path(folder), cfg, model, tuple(names))


@pytest.mark.parametrize("tta", ["flip", "five_crop", "sizes"])
def test_an_averager_equals_the_mean_by_hand(tta: Any) -> None:
    model, images = Toy(32), [picture(), picture(33, 61)]
    averager = Averager({"": member(model)}, tta)
    found = averager.logits(torch.stack([averager.resize(image) for image in images]))
    seen: list[list[Tensor]] = []
    for image in images:
        if tta == "flip":
            usual = EvalResize(image_size=32)(image)
            seen.append([usual, usual.flip(2)])
        elif tta == "five_crop":
            large = EvalResize(image_size=36)(image)
            seen.append(
                [large[:, t : t + 32, left : left + 32] for t, left in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))]
            )
        else:
            seen.append([EvalResize(image_size=size)(image) for size in (28, 32, 36)])
    expected = torch.stack([torch.stack([probabilities(model(v[None])[0]) for v in own]).mean(0) for own in seen])
    torch.testing.assert_close(probabilities(found), expected, rtol=1e-6, atol=1e-9)
    plain = probabilities(model(torch.stack([EvalResize(image_size=32)(image) for image in images])))
    assert (expected - plain).abs().max() > 1e-4, "the views differ"


def test_each_member_has_its_own_input_and_classes_go_by_name() -> None:
    one, two = Toy(32), Toy(20, scale=-2.0)
    averager = Averager({"1": member(one, "abc"), "2": member(two, "cab", resize="crop")}, "flip")
    image = picture()
    each = averager.each(averager.resize(image)[None])
    left = EvalResize(image_size=20, resize="crop")(image)
    by_hand = (probabilities(two(left[None])) + probabilities(two(left.flip(2)[None])))[0] / 2
    torch.testing.assert_close(probabilities(each["2"][0]), by_hand[[1, 2, 0]], rtol=1e-6, atol=0)
    mean = (probabilities(each["1"]) + probabilities(each["2"])) / 2
    torch.testing.assert_close(probabilities(averager.logits(averager.resize(image)[None])), mean, rtol=1e-6, atol=0)
    assert "2 runs with tta=flip: 4 forward passes an image" in str(averager)


def test_other_classes_and_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"two: 3 classes .* of one \(3\): only two has d; only one has c"):
        Averager({"1": member(Toy(8), "abc", folder="one"), "2": member(Toy(8), "abd", folder="two")})
    single = member(Toy(8), folder="two")
    single.config.task = "single_label"
    with pytest.raises(ConfigError, match="only runs of one task can be averaged"):
        Averager({"1": member(Toy(8)), "2": single})


def test_models_of_one_size_are_refused_for_other_sizes() -> None:
    fixed = create_classifier(name="vit_tiny_patch16_224", num_classes=3, image_size=64).train()
    with pytest.raises(ConfigError, match=r"takes images of 64 px alone .*; use tta=flip or tta=five_crop"):
        Averager({"": member(fixed)}, "sizes")
    free = create_classifier(name="test_resnet", num_classes=3, image_size=64).train()
    assert "(32, 64, 96 px): 3 forward passes" in str(Averager({"": member(free)}, "sizes"))


# -- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(run, tmp_path_factory.mktemp("one") / "run"))


@pytest.fixture(scope="module")
def other(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of other weights, with the classes in reverse."""
    folder = tmp_path_factory.mktemp("other") / "run"
    shutil.copytree(run, folder)
    state = torch.load(folder / "best.pt", weights_only=True)
    generator = torch.Generator().manual_seed(1)
    for weights in [state["model"], *([state["ema"]["module"]] if "module" in (state["ema"] or {}) else [])]:
        for tensor in weights.values():
            if tensor.is_floating_point():
                tensor += 0.02 * torch.randn(tensor.shape, generator=generator)
    state["best"] |= {"weights": "val"}
    torch.save(state, folder / "best.pt")
    return folder


def test_evaluate_gives_the_figures_of_the_mean_and_of_each_run(one: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    before = {path.name for path in one.iterdir()}
    execute(evaluate.COMMAND, [str(one), str(other), f"out={out}"])
    found = json.loads(out.read_text())
    assert {path.name for path in one.iterdir()} == before, "no figures of the mean in a run"
    alone = {}
    for folder in (one, other):
        options = evaluate.Options(out=str(tmp_path / "alone.json"))
        alone[str(folder)] = evaluate.evaluate(load_run(folder), folder, options)
    for folder, result in alone.items():
        assert result is not None
        figures = result[result["best"]["weights"]]
        assert found["val"]["members"][folder]["map"] == pytest.approx(figures["map"], abs=1e-9)
    assert found["val"]["mean"]["map"] not in [figures["map"] for figures in found["val"]["members"].values()]
    execute(evaluate.COMMAND, [str(one), "tta=flip"])
    flipped = json.loads((one / "evaluation_flip.json").read_text())
    assert flipped["tta"] == "flip" and not (one / "evaluation.json").exists()
    with pytest.raises(ConfigError, match="a run folder is named twice"):
        execute(evaluate.COMMAND, [str(one), str(one)])
    with pytest.raises(ConfigError, match="tune=thresholds: is for one run"):
        execute(evaluate.COMMAND, [str(one), str(other), "tune=thresholds"])


def test_predict_takes_leading_run_folders_as_members(
    run: Path, other: Path, images: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (other / "thresholds.json").write_text("{}")
    execute(predict.COMMAND, [str(run), str(other), str(images / "1.jpg"), "format=jsonl", "threshold=0"])
    shown = json.loads(capsys.readouterr().out)
    both = Predictor.from_runs([run, other], threshold=0)
    one, two = Predictor.from_run(run, threshold=0), Predictor.from_run(other, threshold=0)
    scores = {label.name: label.score for label in one(images / "1.jpg")}
    others = {label.name: label.score for label in two(images / "1.jpg")}
    assert {label["label"]: label["score"] for label in shown["labels"]} == {
        label.name: pytest.approx(label.score, abs=1e-4) for label in both(images / "1.jpg")
    }
    for name, score in {label.name: label.score for label in both(images / "1.jpg")}.items():
        assert score == pytest.approx((scores[name] + others[name]) / 2, abs=1e-6)
    with caplog.at_level("INFO", logger="mltrain"):
        assert Predictor.from_runs([run, other]).thresholds is not None
    (other / "thresholds.json").unlink()
    with pytest.raises(ConfigError, match="is for one run"):
        execute(predict.COMMAND, [str(run), str(other), str(images / "1.jpg"), "thresholds=file"])
    with pytest.raises(ConfigError, match=r"a run folder and then images \(found 2 names\)"):
        execute(predict.COMMAND, [str(run), str(other)])


def test_a_member_that_was_trained_on_the_evaluated_images_is_named(tmp_path: Path) -> None:
    from mltrain.datasets.fingerprint import Fingerprint
    from mltrain.datasets.splits import Splits
    from mltrain.labels import LabelSet

    def labels(files: str) -> LabelSet:
        return LabelSet.from_lists(
            name="x", root="", files=[f"{f}.png" for f in files], class_names=["a"], positives=[[0] for _ in files]
        )

    for name, train, val in (("first", "abcd", "ef"), ("same", "abcd", "ef"), ("fold", "cdef", "ab")):
        content = Fingerprint.of(Splits(labels(train), labels(val), None), {}).to_arrays()
        content["about"] = np.array(json.dumps(content["about"]))
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "data.npz", **content)
    splits = Splits(labels("abcd"), labels("ef"), None)
    assert trained_on(tmp_path / "same", splits, tmp_path / "first") == {}
    assert trained_on(tmp_path / "fold", splits, tmp_path / "first") == {"val": 2}
    assert trained_on(tmp_path / "nowhere", splits, tmp_path / "first") == {}
