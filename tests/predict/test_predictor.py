"""Labels of images by a finished run, from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mltrain import Predictor
from mltrain.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from mltrain.pipeline.augment import EvalResize
from mltrain.pipeline.decode import read_image
from mltrain.runs.folder import load_finished


def files_of(images: Path) -> list[Path]:
    return sorted(images.glob("*.png")) + sorted(images.glob("*.jpg"))


def plain_logits(run: Path, files: list[Path], weights: str = "best") -> torch.Tensor:
    """Without the predictor: each image by itself through the model as it was trained."""
    finished = load_finished(run, weights=weights)  # type: ignore[arg-type]
    resize = EvalResize(image_size=finished.image_size)
    with torch.inference_mode():
        return torch.cat([finished.model(resize(read_image(file))[None]) for file in files])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("weights", ["val", "ema"])
def test_scores_are_those_of_the_model_whatever_the_batches(
    run: Path, images: Path, weights: str, workers: int
) -> None:
    files = [file for file in files_of(images) if not file.name.startswith(".")]
    predictor = Predictor.from_run(run, weights=weights, topk=1000)  # type: ignore[arg-type]
    predictor.batch_size, predictor.num_workers = 4, workers
    logits = plain_logits(run, files, weights)
    found = list(predictor.predict(files))
    assert [prediction.image for prediction in found] == [str(file) for file in files]
    for row, (_, labels, error) in zip(logits, found, strict=True):
        assert error is None
        scores = dict(zip(predictor.class_names, row.double().sigmoid().tolist(), strict=True))
        assert {label.name: label.score for label in labels} == pytest.approx(scores, abs=1e-5)


def test_the_labels_are_the_classes_above_their_thresholds_best_first(run: Path, images: Path) -> None:
    files = [images / "1.jpg", images / "0.png"]
    scores = plain_logits(run, files).double().sigmoid()
    ordered = scores.flatten().sort().values
    middle = float(
        ordered[len(ordered) // 2 - 1 : len(ordered) // 2 + 1].mean()
    )  # between two scores: none is at the threshold
    names = load_finished(run).class_names
    for labels, row in zip(map(Predictor.from_run(run, threshold=middle), files), scores, strict=True):
        assert {label.name for label in labels} == {names[c] for c in range(len(names)) if row[c] > middle}
        assert [label.score for label in labels] == sorted((label.score for label in labels), reverse=True)
    two = Predictor.from_run(run, threshold=middle, topk=2)(files[0])
    assert two == Predictor.from_run(run, threshold=middle)(files[0])[:2]
    assert Predictor.from_run(run, threshold=1.0)(files[0]) == []
    assert len(Predictor.from_run(run, threshold=0.0)(files[0])) == len(names)


def test_thresholds_of_the_run_are_used_unless_others_are_given(run: Path, images: Path, tmp_path: Path) -> None:
    file = images / "0.png"
    finished = load_finished(run)
    scores = plain_logits(run, [file]).double().sigmoid()[0]
    above, below = int(scores.argmin()), int(scores.argmax())  # the best class has a threshold that it does not reach
    values = np.full(len(scores), 0.999)
    values[above] = float(scores[above]) / 2
    content = {
        "class_names": list(finished.class_names),
        "thresholds": values.tolist(),
        "weights": finished.weights,
        "best": {key: finished.best[key] for key in ("epoch", "step")},
        "chosen_by": "F1 of each class",
        "tuned_on": {},
    }
    try:
        (run / "thresholds.json").write_text(json.dumps(content))
        assert [label.name for label in Predictor.from_run(run)(file)] == [finished.class_names[above]]
        assert Predictor.from_run(run, threshold=0.0)(file)[0].name == finished.class_names[below]
        values[:] = 0.999
        other = tmp_path / "other.json"
        other.write_text(json.dumps(content | {"thresholds": values.tolist()}))
        assert Predictor.from_run(run, thresholds=other)(file) == []
    finally:
        (run / "thresholds.json").unlink()
    default = Predictor.from_run(run)
    assert default.thresholds is not None and (default.thresholds == 0.5).all()  # metrics.threshold


def test_paths_arrays_and_pillow_images_give_the_same_labels(run: Path, images: Path) -> None:
    predictor = Predictor.from_run(run, topk=3)
    file = images / "2.png"
    expected = predictor(file)
    assert predictor(str(file)) == predictor(read_image(file)) == expected
    with Image.open(file) as image:
        assert predictor(image) == expected
    grey = Image.new("L", (40, 30), 77)
    assert predictor(grey) == predictor(np.full((30, 40, 3), 77, dtype=np.uint8))


def test_an_unreadable_image_is_reported_in_its_place(run: Path, images: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 cut short")
    missing = tmp_path / "missing.png"
    files = [broken, images / "0.png", missing, images / "1.jpg", broken]
    predictor = Predictor.from_run(run, topk=1)
    for batch_size in (1, 2, 8):
        predictor.batch_size, predictor.num_workers = batch_size, 0
        found = list(predictor.predict(files))
        assert [prediction.image for prediction in found] == [str(file) for file in files]
        assert [len(prediction.labels) for prediction in found] == [0, 1, 0, 1, 0]
        assert "broken.jpg: cannot decode" in (found[0].error or "") and found[0].error == found[4].error
        assert "missing.png: cannot read the file: No such file" in (found[2].error or "")
    with pytest.raises(DataError, match=r"missing\.png"):
        predictor(missing)
    assert list(predictor.predict([])) == []


def test_one_label_an_image_takes_the_softmax(run: Path, images: Path) -> None:
    finished = load_finished(run)
    finished.config.task = "single_label"
    file = images / "3.jpg"
    scores = plain_logits(run, [file]).double().softmax(1)[0]
    best = int(scores.argmax())
    (label,) = Predictor.from_run(finished)(file)
    assert label.name == finished.class_names[best] and label.score == pytest.approx(float(scores[best]), abs=1e-5)
    assert len(Predictor.from_run(finished, topk=3)(file)) == 3
    assert Predictor.from_run(finished, threshold=float(scores[best]) + 0.01)(file) == []
    with pytest.raises(ConfigError, match="task=single_label"):
        Predictor.from_run(finished, thresholds="x.json")


def test_what_cannot_be_is_refused(run: Path, images: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_run(run)
    for image in (np.zeros((4, 4), dtype=np.uint8), np.zeros((4, 4, 3)), 3):
        with pytest.raises(ValueError, match=r"uint8 array \(H, W, 3\)"):
            predictor(image)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no run folder"):
        Predictor.from_run(tmp_path)
    with pytest.raises(ConfigError, match=r"threshold=2: a probability"):
        Predictor.from_run(run, threshold=2)
    with pytest.raises(ConfigError, match="no file of thresholds"):
        Predictor.from_run(run, thresholds=tmp_path / "none.json")
    with pytest.raises(ConfigError, match="device='gpu' is not known"):
        Predictor.from_run(run, device="gpu")
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(CheckpointError, match=r"no best\.pt"):
        Predictor.from_run(tmp_path)
    predictor.model.head.fc.bias.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        predictor(images / "0.png")


def test_a_folder_of_weights_trained_elsewhere_predicts_too(run: Path, images: Path, tmp_path: Path) -> None:
    finished = load_finished(run)
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    (tmp_path / "classes.txt").write_text("\n".join(finished.class_names) + "\n")
    save_file(finished.model.state_dict(), tmp_path / "model.safetensors")
    elsewhere = load_finished(tmp_path)
    assert elsewhere.stats is None and elsewhere.weights == "val"
    file = images / "0.png"
    assert Predictor.from_run(elsewhere, topk=5)(file) == Predictor.from_run(run, topk=5)(file)
    with pytest.raises(ConfigError, match="has no EMA weights; weights=best"):
        Predictor.from_run(tmp_path, weights="ema")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(CheckpointError, match=r"no classes\.txt"):
        Predictor.from_run(tmp_path)


@pytest.mark.gpu
def test_a_gpu_gives_the_scores_of_the_cpu(run: Path, images: Path) -> None:
    files = [images / f"{k}.{'jpg' if k % 2 else 'png'}" for k in range(9)]
    expected = list(Predictor.from_run(run, topk=1000, device="cpu").predict(files))
    predictor = Predictor.from_run(run, topk=1000, device="cuda")
    predictor.batch_size = 4
    assert predictor.device.type == "cuda"
    for found, prediction in zip(predictor.predict(files), expected, strict=True):
        assert dict(found.labels) == pytest.approx(dict(prediction.labels), abs=2e-3)  # TF32
    assert dict(predictor(files[0])) == pytest.approx(dict(expected[0].labels), abs=2e-3)
