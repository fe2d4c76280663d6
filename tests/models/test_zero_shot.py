"""Label embeddings from every format, and the zero-shot ML-Decoder against a plain restatement."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mltrain.errors import ConfigError, DataError
from mltrain.metrics import summarize
from mltrain.models import ZeroShotMLDecoder, create_classifier
from mltrain.models.label_embeddings import label_embeddings, write_label_embeddings

WORDS = {
    "cat": [1.0, 0.0, 0.5],
    "dog": [0.0, 2.0, 0.25],
    "Dog": [9.0, 9.0, 9.0],
    "traffic": [4.0, 0.0, 0.0],
    "light": [0.0, 4.0, 1.0],
    "fire_hydrant": [3.0, 3.0, 3.0],
    "fire": [1.0, 1.0, 1.0],
    "hydrant": [2.0, 2.0, 2.0],
    "potted": [5.0, 1.0, 0.0],
    "plant": [1.0, 5.0, 0.0],
    "television": [7.0, 0.0, 7.0],
    "dryer": [0.5, 0.5, 0.5],
    "hair": [0.0, 1.0, 0.0],
}


def text(path: Path, *, header: bool = False, extra: tuple[str, ...] = ()) -> Path:
    lines = [f"{word} {' '.join(map(str, numbers))}" for word, numbers in WORDS.items()]
    content = "\n".join([*([f"{len(WORDS)} 3"] if header else []), *lines, *extra]) + "\n"
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


# -- word vectors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "header"), [("glove.txt", False), ("word2vec.vec", True), ("crawl.vec.gz", True)])
def test_classes_get_the_vector_of_their_name_or_the_mean_of_its_words(tmp_path: Path, file: str, header: bool) -> None:
    path = text(tmp_path / file, header=header)
    names = ["dog", "Cat", "traffic light", "fire hydrant", "fire-hydrant", "Dog"]
    expected = [
        WORDS["dog"],
        WORDS["cat"],
        [2.0, 2.0, 0.5],
        WORDS["fire_hydrant"],  # the whole name before the mean of its words
        WORDS["fire_hydrant"],
        WORDS["Dog"],  # the spelling as given before lower case
    ]
    vectors = label_embeddings(path, names)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected)


def test_aliases_stand_for_class_names(tmp_path: Path) -> None:
    path = text(tmp_path / "v.txt")
    vectors = label_embeddings(path, ["tvmonitor", "cat"], aliases={"tvmonitor": "television"})
    np.testing.assert_allclose(vectors, [WORDS["television"], WORDS["cat"]])
    with pytest.raises(ConfigError, match=r"no class 'tvmonitr'; did you mean 'tvmonitor'\?"):
        label_embeddings(path, ["tvmonitor", "cat"], aliases={"tvmonitr": "television"})


def test_missing_words_are_named_with_near_words_and_split_compounds(tmp_path: Path) -> None:
    path = text(tmp_path / "v.txt")
    with pytest.raises(DataError) as error:
        label_embeddings(path, ["cat", "pottedplant", "hair drier", "xylophone"])
    message = str(error.value)
    assert f"{path}: 3 of 4 classes have no vector" in message
    assert "pottedplant (there is 'potted plant')" in message
    assert "hair drier: no 'drier' (there is 'dryer')" in message
    assert "\n  xylophone\n" in message
    assert "aliases=FILE" in message


def test_words_with_spaces_in_them_do_not_disturb_the_others(tmp_path: Path) -> None:
    path = text(tmp_path / "v.txt", extra=("at name@domain.com 1 2 3", "at 6 6 6", "cat 8 8 8"))
    np.testing.assert_allclose(label_embeddings(path, ["at", "cat"]), [[6, 6, 6], WORDS["cat"]])


@pytest.mark.parametrize(
    ("line", "message"),
    [("zebra 1 2", "line 14: expected a word and 3 numbers, found 2"), ("zebra 1 x 3", "line 14: expected a word")],
)
def test_a_broken_line_of_a_needed_word_is_an_error_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    path = text(tmp_path / "v.txt", extra=(line,))
    with pytest.raises(DataError, match=message):
        label_embeddings(path, ["zebra"])
    label_embeddings(path, ["cat"])


def test_files_that_are_no_embeddings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file.*build_label_embeddings"):
        label_embeddings(tmp_path / "none.npz", ["cat"])
    (tmp_path / "w2v.bin").write_bytes(b"3 3\ncat \0\0\0\0")
    with pytest.raises(DataError, match=r"a binary file; formats: .*text"):
        label_embeddings(tmp_path / "w2v.bin", ["cat"])
    (tmp_path / "x.vec.gz").write_bytes(b"not compressed")
    with pytest.raises(DataError, match="cannot be read"):
        label_embeddings(tmp_path / "x.vec.gz", ["cat"])
    text(tmp_path / "v.txt", extra=("zebra 1 nan 3",))
    with pytest.raises(DataError, match="'zebra' holds NaN"):
        label_embeddings(tmp_path / "v.txt", ["zebra"])


# -- files of label embeddings ---------------------------------------------------------------------------------------


def test_npz_and_torch_files_give_vectors_by_name_in_any_order(tmp_path: Path) -> None:
    vectors = np.arange(8, dtype=np.float32).reshape(2, 4)
    write_label_embeddings(tmp_path / "sub" / "e.npz", ["a b", "ä"], vectors)
    tensors = torch.from_numpy(vectors)
    torch.save({"class_names": ["a b", "ä"], "vectors": tensors.double()}, tmp_path / "pair.pt")
    torch.save({"a b": tensors[0], "ä": tensors[1], "unused": tensors[1]}, tmp_path / "dict.pth")
    for file in ("sub/e.npz", "pair.pt", "dict.pth"):
        np.testing.assert_array_equal(label_embeddings(tmp_path / file, ["ä", "a b"]), vectors[::-1])
    with pytest.raises(DataError, match=r"1 of 2 classes is not in it:\s+a bb; did you mean 'a b'"):
        label_embeddings(tmp_path / "dict.pth", ["ä", "a bb"])
    with pytest.raises(ConfigError, match="aliases are for word vectors"):
        label_embeddings(tmp_path / "dict.pth", ["ä"], aliases={"ä": "a b"})


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("evil"),))


def test_torch_files_run_no_code_and_need_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"cat": Evil()}, "evil.pt")
    with pytest.raises(DataError, match="other content"):
        label_embeddings("evil.pt", ["cat"])
    assert not Path("evil").exists()
    torch.save(torch.zeros(300, 1006), "wordvec_array.pth")
    with pytest.raises(DataError, match=r"tensor \(300, 1006\), which does not name the class of each vector"):
        label_embeddings("wordvec_array.pth", ["cat"])
    torch.save({"a": torch.zeros(3), "b": torch.zeros(4)}, "lengths.pt")
    with pytest.raises(DataError, match="different shapes"):
        label_embeddings("lengths.pt", ["a"])
    np.savez("other.npz", names=["a"])
    with pytest.raises(DataError, match="class_names"):
        label_embeddings("other.npz", ["a"])
    np.savez("pickled.npz", class_names=np.array(["a", 1], dtype=object), vectors=np.zeros((2, 3)))
    with pytest.raises(DataError, match="plain arrays"):
        label_embeddings("pickled.npz", ["a"])


# -- the head --------------------------------------------------------------------------------------------------------

NAMES = ["ant", "bee", "cow", "doe", "elk"]


@pytest.fixture
def file(tmp_path: Path) -> str:
    vectors = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    write_label_embeddings(tmp_path / "e.npz", NAMES, vectors)
    return str(tmp_path / "e.npz")


@pytest.mark.parametrize("dim", [32, 12])
@pytest.mark.parametrize("training", [False, True])
def test_zero_shot_head_equals_the_published_formula_in_values_and_gradients(
    file: str, dim: int, training: bool
) -> None:
    torch.manual_seed(0)
    head = ZeroShotMLDecoder(
        20, 5, class_names=NAMES, embeddings=file, dim=dim, num_heads=4, ffn_dim=48, dropout=0.0
    ).train(training)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.3)
    plain = nn.TransformerDecoderLayer(dim, 4, 48, dropout=0.0, batch_first=True)
    plain.load_state_dict(head.layers[0].state_dict(), strict=False)
    tokens = torch.randn(3, 11, 20, requires_grad=True)
    upstream = torch.randn(3, 5)

    vectors = torch.from_numpy(label_embeddings(file, NAMES))
    projected = vectors if dim == 12 else vectors @ head.wordvec_proj.weight.T + head.wordvec_proj.bias
    q = F.relu(projected).expand(3, -1, -1)
    memory = F.relu(F.linear(tokens, head.embed_standart.weight, head.embed_standart.bias))
    t = plain.norm1(q + q)  # the published layer has no self-attention, only what stood around it
    t = plain.norm2(t + plain.multihead_attn(t, memory, memory)[0])
    t = plain.norm3(t + plain.linear2(F.relu(plain.linear1(t))))
    expected = torch.stack([t[:, c] @ head.duplicate_pooling[:, 0] for c in range(5)], 1) + head.duplicate_pooling_bias

    mine = [p for n, p in head.named_parameters() if not n.startswith("layers")]
    layer = dict(head.layers[0].named_parameters())
    wanted = torch.autograd.grad((expected * upstream).sum(), [tokens, *mine, *(plain.get_parameter(n) for n in layer)])
    logits = head(tokens)
    gradients = torch.autograd.grad((logits * upstream).sum(), [tokens, *mine, *layer.values()])
    for a, b in zip([logits, *gradients], [expected, *wanted], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_zero_shot_head_has_the_published_parameters_and_start(tmp_path: Path) -> None:
    write_label_embeddings(tmp_path / "e.npz", NAMES, np.zeros((5, 300)))
    head = ZeroShotMLDecoder(2048, 5, class_names=NAMES, embeddings=str(tmp_path / "e.npz"))
    shapes = {k: tuple(v.shape) for k, v in head.state_dict().items()}
    assert shapes.pop("duplicate_pooling") == (768, 1)
    assert shapes.pop("duplicate_pooling_bias") == (1,)
    assert shapes.pop("wordvec_proj.weight") == (768, 300) and shapes.pop("wordvec_proj.bias") == (768,)
    assert shapes.pop("embed_standart.weight") == (768, 2048) and shapes.pop("embed_standart.bias") == (768,)
    assert shapes and all(name.startswith("layers.0.") for name in shapes), "no embedding of a class"
    assert sum(p.numel() for p in head.parameters()) / 1e6 == pytest.approx(7.32, abs=0.005)
    assert head.duplicate_pooling.std().item() == pytest.approx(math.sqrt(2 / 769), rel=0.1)
    assert head.duplicate_pooling_bias.item() == 0


def test_a_class_is_answered_the_same_whatever_the_other_classes_are(file: str) -> None:
    torch.manual_seed(0)
    options = {"embeddings": file, "dim": 16, "num_heads": 2, "ffn_dim": 16}
    head = ZeroShotMLDecoder(8, 3, class_names=["bee", "elk", "ant"], **options).eval()
    more = ZeroShotMLDecoder(8, 5, class_names=NAMES, **options).eval()
    more.load_state_dict(head.state_dict())  # trained weights know nothing of the classes
    tokens = torch.randn(2, 7, 8)
    torch.testing.assert_close(head(tokens), more(tokens)[:, [1, 4, 0]])


def test_what_was_learned_of_seen_classes_tells_unseen_ones_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    angles = 2 * math.pi * torch.arange(16) / 16  # classes on a circle
    vectors = torch.stack([angles.sin(), angles.cos(), (2 * angles).sin(), (2 * angles).cos()], 1)
    names, unseen = [f"at {k}" for k in range(16)], [2, 7, 12]
    write_label_embeddings(tmp_path / "e.npz", names, vectors.numpy())
    shown = vectors @ torch.randn(4, 16)

    def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two classes an image, a token each, between two blank ones."""
        classes = torch.rand(n, 16).topk(2, 1).indices
        tokens = torch.cat([shown[classes], torch.zeros(n, 2, 16)], 1) + 0.1 * torch.randn(n, 4, 16)
        return tokens, torch.zeros(n, 16).scatter_(1, classes, 1)

    options = {"class_names": names, "embeddings": str(tmp_path / "e.npz"), "dim": 32, "num_heads": 4, "ffn_dim": 64}
    head = ZeroShotMLDecoder(16, 16, **options, dropout=0.0)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    seen = [k for k in range(16) if k not in unseen]
    for _ in range(100):
        tokens, targets = images(64)
        loss = F.binary_cross_entropy_with_logits(head(tokens)[:, seen], targets[:, seen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, targets = images(400)
    groups = {"seen": seen, "unseen": unseen}
    with torch.no_grad():
        scalars = summarize(head(tokens), targets, group_indices=groups, topk=1).scalars
    assert scalars["map_seen"] > 90
    assert scalars["map_unseen"] > 2 * 100 * 2 / 16, "twice what chance gives"
    assert scalars["OP_unseen@1"] > 60, "a third by chance"


def test_zero_shot_classifier_without_hydra(file: str) -> None:
    options = {"class_names": NAMES, "embeddings": file, "dim": 16, "ffn_dim": 16, "prior": 0.1}
    model = create_classifier(name="test_resnet", num_classes=5, head="zero_shot", head_options=options)
    logits = model(torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, 5) and model.head.duplicate_pooling_bias.item() == pytest.approx(-math.log(9))
    logits.sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": NAMES[:4]}, "4 class_names for num_classes=5"),
        ({"dim": 20}, "num_heads=8"),
        ({"ffn_dim": 0}, "ffn_dim=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"prior": 0.0}, "prior=0.0"),
    ],
)
def test_zero_shot_head_refuses_options_out_of_range(file: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZeroShotMLDecoder(16, 5, **({"class_names": NAMES, "embeddings": file} | options))
