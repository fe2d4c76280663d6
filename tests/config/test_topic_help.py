"""Help on one part of the config, the names of timm's models, and the completion of a line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import timm
import yaml

from mltrain.commands.completion import SCRIPTS, candidates
from mltrain.commands.list import list_options
from mltrain.config.compose import load
from mltrain.config.identity import run_id
from mltrain.config.overrides import EXPERIMENT, Source
from mltrain.config.schema import SECTIONS, section_options
from mltrain.config.timm_models import timm_models
from mltrain.config.topic_help import docstring_arguments, topic_help
from mltrain.errors import ConfigError

SOURCE = Source()
OPTIONS = [(group, option) for group in SOURCE.groups() if group not in SECTIONS for option in SOURCE.options(group)]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda text: text)
def test_the_help_on_an_option_has_all_its_keys(group: str, option: str) -> None:
    text = topic_help(f"{group}={option}", SOURCE)
    file = SOURCE.file(f"{group}/{option}.yaml")
    assert file is not None and f"{group}={option}" in text.splitlines()[0]
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    if group not in (EXPERIMENT, "debug"):
        keys = [key for key in tree.get(group, tree) if key not in ("_target_", "defaults")]
        assert all(f"{group}.{key}=" in text for key in keys)


def test_the_help_on_a_loss_says_type_default_meaning_and_paper() -> None:
    text = topic_help("loss=db", SOURCE)
    assert "arXiv:2007.09654" in text
    assert "loss.alpha=0.1          float; lowest weight, >= 0." in text
    assert "loss.form=repository    repository | paper; repository divides the class prior" in text
    assert "sum, mean over known entries or batchmean (sum / B)" in text  # from the base class
    assert "Example: mltrain train loss=db loss.alpha=0.1" in text


@pytest.mark.parametrize("name", SECTIONS)
def test_the_help_on_a_section_has_all_its_options(name: str) -> None:
    text = topic_help(name, SOURCE)
    assert all(f"{name}.{key}=" in text for key in section_options(SECTIONS[name]))


def test_the_help_on_a_data_set_that_sets_more_says_so() -> None:
    assert "It also chooses: " in topic_help("dataset=shapes", SOURCE)
    assert "runner.epochs=24" in topic_help("dataset=shapes", SOURCE)


def test_the_help_on_one_option_and_on_a_group() -> None:
    assert topic_help("runner.epochs", SOURCE) == "    runner.epochs=40   int, at least 1\n"
    assert topic_help("seed", SOURCE).startswith("    seed=0   int, from 0 to 2147483647; of initialisation")
    assert all(f"    {option} " in topic_help("loss", SOURCE) for option in SOURCE.options("loss"))


@pytest.mark.parametrize(
    ("topic", "hint"),
    [
        ("los", "did you mean loss?"),
        ("loss=dbb", "did you mean loss=db?"),
        ("loss.gamma", "name an option of loss, e.g. --help loss=asl"),
    ],
)
def test_help_on_what_there_is_not(topic: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint.replace("?", r"\?").replace(".", r"\.")):
        topic_help(topic, SOURCE)


def test_arguments_that_a_base_class_describes_are_found() -> None:
    assert (
        docstring_arguments("mltrain.losses.inverse_frequency.InverseFrequencyLoss")["reduction"].startswith("``")
        is False
    )
    assert "batchmean" in docstring_arguments("mltrain.losses.ldam.LDAMLoss")["reduction"]


def test_timm_models_are_those_that_timm_registers() -> None:
    registered = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")]
    assert list(timm_models()) == sorted(registered)


def test_any_model_of_timm_is_an_option() -> None:
    data = ["dataset=csv", "dataset.file=my.csv"]
    short = load([*data, "model=regnety_032", "model.image_size=64"])
    long = load([*data, "model=timm", "model.name=regnety_032", "model.image_size=64"])
    assert run_id(short) == run_id(long)
    assert load([*data, "model=resnet50.a1_in1k"]).model.name == "resnet50.a1_in1k"
    with pytest.raises(ConfigError, match="did you mean model=regnety_320"):
        load(["model=regnety_32"])


def test_list_finds_by_pattern() -> None:
    assert "resnet10t" in list_options(["models", "resnet10t"]) and "4.9M" in list_options(["models", "resnet10t"])
    assert list_options(["loss", "as*"]).split() == list_options(["losses", "as*"]).split()
    assert "bce" not in list_options(["losses", "as*"])
    for wrong, hint in ((["los"], "did you mean loss"), (["loss", "x*"], "no loss of this name")):
        with pytest.raises(ConfigError, match=hint):
            list_options(wrong)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("mltrain tr", ["train"]),
        ("mltrain train loss=asl", ["loss=asl", "loss=asl_softmax"]),
        ("mltrain train -m loss=bce,ra", ["loss=bce,ral"]),
        ("mltrain train loss=db loss.focal", ["loss.focal=", "loss.focal_factor="]),
        ("mltrain train model=regnety_032 model.freeze_s", ["model.freeze_stages="]),
        ("mltrain train model=resnet10t", ["model=resnet10t"]),
        ("mltrain train dataset.num_tr", ["dataset.num_train="]),
        ("mltrain train runner.amp=b", ["runner.amp=bf16"]),
        ("mltrain train runner.sync_bn=", ["runner.sync_bn=false", "runner.sync_bn=true"]),
        ("mltrain train +experiment=corel5k_m", ["+experiment=corel5k_mld"]),
        ("mltrain evaluate RUN loss", ["loss."]),
        ("mltrain dataset_stats los", []),
        ("mltrain results base", ["baseline="]),
        ("mltrain list expe", ["experiment"]),
        ("mltrain train --c", ["--cfg", "--config-dir"]),
        ("mltrain nothing x", []),
    ],
)
def test_completion_of_a_line(line: str, found: list[str]) -> None:
    assert candidates(line) == found


def test_bash_completes_what_follows_the_equals_sign(tmp_path: Path) -> None:
    script = SCRIPTS["bash"] + (
        "mltrain() { printf 'loss=asl\\nloss=asl_softmax\\n'; }\n"
        "COMP_LINE='mltrain train loss=as'; COMP_POINT=${#COMP_LINE}; _mltrain; echo ${COMPREPLY[@]}\n"
    )
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "asl asl_softmax\n"
