"""Every typo is refused, by path and with the right suggestion, wherever it stands and before torch is imported."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from mltrain.config.compose import load
from mltrain.config.overrides import Source
from mltrain.errors import ConfigError
from mltrain.text import nearest

# override, what the message must say
TYPOS = [
    ("loss=asll", "did you mean loss=asl?"),
    ("loss=ASL", "did you mean loss=asl?"),
    ("head=mldecoder", "did you mean head=ml_decoder?"),
    ("dataset=coco2014", "did you mean dataset=coco"),
    ("model=tresnetl", "did you mean model=tresnet_l?"),
    ("model=resnet5", "did you mean model=resnet50?"),
    ("optimizer=adamW", "did you mean optimizer=adam"),
    ("schedule=onecycle", "did you mean schedule=one_cycle?"),
    ("ema=off", "allowed: default, none"),
    ("runner=fast", "allowed: default"),
    ("+experiment=coco_asl_tresnetl", "did you mean experiment=coco_asl_tresnet_l?"),
    ("losss=bce", "losss=bce: there is no losss; did you mean loss?"),
    ("loss.gama_neg=3", "did you mean loss.gamma_neg?"),
    ("+loss.gama_neg=3", "did you mean loss.gamma_neg?"),
    ("++loss.gama_neg=3", "did you mean loss.gamma_neg?"),
    ("loss.clipp=0.1", "did you mean loss.clip?"),
    ("loss.reduction=summ", "did you mean loss.reduction=sum?"),
    ("loss.gamma_neg=four", "loss.gamma_neg=four: must be float"),
    ("loss.gamma_neg=null", "loss.gamma_neg=null: must be float"),
    ("loss.detach_weight=1", "loss.detach_weight=1: must be true | false"),
    ("runner.epoch=3", "did you mean runner.epochs?"),
    ("runer.epochs=3", "did you mean runner?"),
    ("runner.batchsize=3", "did you mean runner.batch_size?"),
    ("runner.bs=3", "runner.bs=3: there is no runner.bs"),
    ("runner.epochs=0", "must be int of at least 1"),
    ("runner.epochs=2.5", "runner.epochs=2.5: must be int"),
    ("runner.epochs=true", "runner.epochs=true: must be int"),
    ("runner.epochs=[3]", "runner.epochs=[3]: must be int"),
    ("runner.amp=fp61", "did you mean runner.amp=fp16?"),
    ("runner.amp=true", "must be auto | off | bf16 | fp16"),
    ("runner.lr=0.1", "did you mean optimizer.lr?"),
    ("lr=0.1", "did you mean optimizer.lr?"),
    ("epochs=3", "did you mean runner.epochs?"),
    ("data.workers=3", "did you mean data.num_workers?"),
    ("data.num_workers=-1", "must be int | null of at least 0"),
    ("data.on_corrupt=ignore", "must be stop | skip"),
    ("metrics.threshold=50", "from 0 to 1"),
    ("logger.tensorbord=true", "did you mean logger.tensorboard?"),
    ("logger.tensorboard=yes", "must be true | false"),
    ("paths.dat=/x", "did you mean paths.data?"),
    ("paths.data=3", "must be string"),
    ("seed=zero", "seed=zero: must be int"),
    ("sed=1", "did you mean seed?"),
    ("name=7", "quote it"),
    ("optimizer.lrr=1", "did you mean optimizer.lr?"),
    ("optimizer.weightdecay=1", "did you mean optimizer.weight_decay?"),
    ("optimizer.betas=[0.9]", "must be a list [float, float]"),
    ("optimizer.model=x", "cannot be set: the program works it out"),
    ("schedule.steps_per_epoch=5", "cannot be set: the program works it out"),
    ("head.num_classes=5", "cannot be set: the program works it out"),
    ("model.pretraind=true", "did you mean model.pretrained?"),
    ("model.pretrained=yse", "must be true | false"),
    ("dataset.roots=/x", "did you mean dataset.root?"),
    ("schedule.epochs=${runner.epoch}", "Interpolation key 'runner.epoch' not found"),
    ("loss._target_=mltrain.losses.AsymetricLoss", "did you mean mltrain.losses.AsymmetricLoss?"),
    ("loss._target_=mltrain.loss.AsymmetricLoss", "did you mean mltrain.losses?"),
    ("loss._target_=os.system", "is not among the packages a config may name"),
    ("loss._target_=null", "this section cannot be off"),
    ("ema._target_=subprocess.run", "is not among the packages a config may name"),
    ("loss={gama: 1}", "loss.gama=1: AsymmetricLoss has no option gama"),
    ("loss=[bce,asl]", "a config has one loss"),
    ("metrics.medium_min=200", "must not be above metrics.head_min=100"),
    ("metrics.threshold=nan", "from 0 to 1"),
    ("loss._target_=mltrain.report.outcome.write_per_class", "is not among the packages a config may name"),
    ("head._target_=torch.load", "is not among the packages a config may name"),
    ("loss=bce,asl", "for one run each add -m"),
    ("loss@head=asl", "write loss=OPTION"),
    ("runner.epochs", "write KEY=VALUE"),
    ("runner.epochs:3", "write KEY=VALUE"),
    ("runner.epochs=[3", "cannot be read"),
    ("optimizer.lr=1e-3,", "cannot be read"),
    ("=3", "write KEY=VALUE"),
    ("~loss", "loss: is missing"),
    ("~loss.gama", "'loss.gama' does not exist"),
]


# Stop Hydra's composition itself, so that nothing else can be looked at.
ALONE = {"~loss.gama"}


def batches() -> list[list[str]]:
    """The corpus in few commands, for speed: no two typos of a section in one."""
    made: list[dict[str, str]] = []
    for override, _ in TYPOS:
        section = re.split(r"[=.@:]", override.lstrip("+~"))[0]
        free = next((b for b in made if section not in b and "alone" not in b), None)
        if free is None or override in ALONE:
            made.append(free := {"alone": ""} if override in ALONE else {})
        free[section] = override
    return [[text for text in batch.values() if text] for batch in made]


@functools.cache
def refusal(batch: int) -> str:
    with pytest.raises(ConfigError) as caught:
        load(batches()[batch])
    return str(caught.value)


@pytest.mark.parametrize(("override", "expected"), TYPOS, ids=[override for override, _ in TYPOS])
def test_a_typo_is_refused_with_its_path_and_a_suggestion(override: str, expected: str) -> None:
    number = next(i for i, batch in enumerate(batches()) if override in batch)
    text, size = refusal(number), len(batches()[number])
    complaints = re.split(r"\n  (?! )", text)[1:]
    assert len(complaints) == size, f"one mistake, one complaint:\n{text}"
    section = re.split(r"[=.@:]", override.lstrip("+~"))[0]
    own = [part for part in complaints if size == 1 or re.match(rf"{section}\b" if section else override, part)]
    assert len(own) == 1
    assert expected in own[0]


def test_all_problems_are_listed_in_one_message() -> None:
    with pytest.raises(ConfigError) as caught:
        load(["loss=asll", "runner.epoch=3", "seed=x", "optimizer.lr=[1", "model.nmae=resnet18"])
    text = str(caught.value)
    assert text.startswith("5 problems in the config:")
    for part in ("loss=asll", "runner.epoch=3", "seed=x", "optimizer.lr=[1", "model.nmae=resnet18"):
        assert part in text


def test_options_of_an_unknown_choice_are_not_held_against_another() -> None:
    with pytest.raises(ConfigError) as caught:
        load(["loss=focall", "loss.gamma=3"])
    assert str(caught.value).startswith("1 problem")


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("experiment/mine.yaml", "# @package _global_\nrunner:\n  epoch: 3\n", "configs/experiment/mine.yaml, line 3"),
        ("experiment/mine.yaml", "# @package _global_\nloss:\n  gama_neg: 3\n", "did you mean loss.gamma_neg?"),
        ("experiment/mine.yaml", "# @package _global_\nrunnner:\n  epochs: 3\n", "did you mean runner?"),
        (
            "experiment/mine.yaml",
            "# @package _global_\ndefaults:\n  - override /loss: asll\n",
            "did you mean loss: asl?",
        ),
        (
            "experiment/mine.yaml",
            "# @package _global_\ndefaults:\n  - override /los: asl\n",
            "Could not override 'los'",
        ),
        ("experiment/mine.yaml", "# @package _global_\nrunner:\n  epochs: [3\n", "mine.yaml"),
        ("experiment/mine.yaml", "epochs: 3\n", 'its first line must be "# @package _global_"'),
        ("loss/asl.yaml", "_target_: mltrain.losses.AsymmetricLoss\ngama_neg: 1.0\n", "configs/loss/asl.yaml, line 2"),
        ("loss/asl.yaml", "gamma_neg: 1.0\n", "loss: has no _target_"),
        ("train.yaml", None, "configs/train.yaml, line"),
    ],
)
def test_a_typo_in_a_file_is_refused_with_the_file_and_its_line(
    source: Source, file: str, text: str | None, expected: str
) -> None:
    path = source.folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text if text is not None else path.read_text() + "\nrunner:\n  epoch: 3\n")
    with pytest.raises(ConfigError) as caught:
        load(["experiment=mine"] if file.startswith("experiment") else [], source=source)
    assert expected in str(caught.value)


def test_a_target_may_not_be_reached_through_an_allowed_module() -> None:
    for target in (
        "torch.nn.functional.torch.load",
        "timm.layers.config.os.system",
        "mltrain.cli.os.system",
        "mltrain.cli.sys.exit",
    ):
        with pytest.raises(ConfigError, match=r"loss\._target_"):
            load([f"loss._target_={target}", "~loss.gamma_neg"])


def test_a_nested_target_is_checked_like_any_other() -> None:
    for nested, expected in [
        ("{_target_: os.system}", r"loss\.gamma_neg\._target_=os\.system"),
        ("{_target_: mltrain.losses.AsymmetricLoss, clipp: 1}", r"loss\.gamma_neg\.clipp"),
    ]:
        with pytest.raises(ConfigError, match=expected):
            load([f"loss.gamma_neg={nested}"])


def test_what_paths_allow_targets_names_is_imported_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_losses.py").write_text(
        "from torch import nn\n\nclass Mine(nn.Module):\n    def __init__(self, *, beta=1.0): self.beta = beta\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "configs/loss").mkdir(parents=True)
    (tmp_path / "configs/loss/mine.yaml").write_text("_target_: my_losses.Mine\nbeta: 2.0\n")
    source = Source(extra=(tmp_path / "configs",))
    with pytest.raises(ConfigError, match="not among the packages"):
        load(["loss=mine"], source=source)
    cfg = load(["loss=mine", "paths.allow_targets=[my_losses]"], source=source)
    assert cfg.loss.beta == 2.0
    with pytest.raises(ConfigError, match=r"did you mean loss\.beta"):
        load(["loss=mine", "loss.betta=1", "paths.allow_targets=[my_losses]"], source=source)
    with pytest.raises(ConfigError, match="did you mean Mine"):
        load(["loss=mine", "loss._target_=my_losses.Mein", "paths.allow_targets=[my_losses]"], source=source)


def test_the_advice_for_a_value_in_a_file_is_yaml_that_works(tmp_path: Path) -> None:
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\nname: 1e5\n", encoding="utf-8")
    source = Source(extra=(tmp_path,))
    with pytest.raises(ConfigError) as error:
        load(["+experiment=mine"], source=source)
    advice = re.search(r"quote it: (.*) \(from", str(error.value))
    assert advice is not None
    file.write_text(f"# @package _global_\n{advice[1]}\n", encoding="utf-8")
    assert float(load(["+experiment=mine"], source=source).name) == 1e5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runner:\n  epochs: 3\n", "found 'runner:'"),
        ("# mine\n# @package _global_\nrunner:\n  epochs: 3\n", "it stands in a later line: move it to the top"),
        ("# @package runner\nepochs: 3\n", "found '# @package runner'"),
        ("\ufeff# @package _global_\nrunner:\n  epochs: 3\n", "a byte order mark hides its first line"),
    ],
)
def test_an_experiment_without_its_header_is_told_so(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load(["+experiment=mine"], source=Source(extra=(tmp_path,)))
    assert f"{file}: " in str(error.value) and said in str(error.value)
    assert 'its first line must be "# @package _global_"' in str(error.value)
    file.write_text("# @package _global_\nrunner:\n  epochs: 3\n", encoding="utf-8")
    assert load(["+experiment=mine"], source=Source(extra=(tmp_path,))).runner.epochs == 3


def test_of_equally_similar_names_the_one_that_goes_on_as_typed_comes_first() -> None:
    names = ["mobilenetv2_140", "mobilenetv2_100", "mobilenetv2_110d"]
    assert nearest("mobilenetv2_10", names) == nearest("mobilenetv2_10", names[::-1]) == "mobilenetv2_100"
