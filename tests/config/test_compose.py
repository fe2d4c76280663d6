"""Composition of a config: the order of precedence, and the defaults that are filled in."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mltrain.config.compose import load, load_run
from mltrain.config.overrides import Source, parse_override
from mltrain.config.schema import SECTIONS, section_options
from mltrain.errors import ConfigError

RECIPE = """# @package _global_
defaults:
  - override /loss: asl
  - override /schedule: one_cycle
runner:
  epochs: 7
loss:
  gamma_neg: 6.0
schedule:
  epochs: 9
name: recipe
"""


@pytest.fixture
def recipe(source: Source) -> Source:
    (source.folder / "experiment/recipe.yaml").write_text(RECIPE)
    return source


@pytest.mark.parametrize("spelling", ["+experiment=recipe", "experiment=recipe"])
def test_an_experiment_applies_last_wherever_it_stands(recipe: Source, spelling: str) -> None:
    for overrides in ([spelling], [spelling, "dataset=shapes"], ["dataset=shapes", spelling]):
        cfg = load(overrides, source=recipe)
        assert (cfg.runner.epochs, cfg.loss.gamma_neg, cfg.schedule.epochs, cfg.name) == (7, 6.0, 9, "recipe")


def test_a_value_on_the_command_line_wins_over_the_experiment(recipe: Source) -> None:
    cfg = load(["+experiment=recipe", "loss.gamma_neg=2", "runner.epochs=3"], source=recipe)
    assert (cfg.loss.gamma_neg, cfg.runner.epochs, cfg.schedule.epochs) == (2.0, 3, 9)


def test_a_choice_on_the_command_line_replaces_the_section_of_the_experiment(
    recipe: Source, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mltrain"), "propagate", True)
    for overrides in (["+experiment=recipe", "loss=bce"], ["loss=bce", "+experiment=recipe"]):
        caplog.clear()
        cfg = load(overrides, source=recipe)
        assert cfg.loss == load(["loss=bce"], source=recipe).loss
        assert (cfg.runner.epochs, cfg.schedule.epochs) == (7, 9), "the other sections stay"
        assert "loss=bce replaces what the experiment sets there: loss.gamma_neg=6.0" in caplog.text


def test_a_replaced_section_keeps_its_interpolations_and_overrides(recipe: Source) -> None:
    cfg = load(["+experiment=recipe", "schedule=cosine", "schedule.final=0.1", "runner.epochs=5"], source=recipe)
    assert (cfg.schedule.epochs, cfg.schedule.final) == (5, 0.1)


def test_every_option_is_there_with_its_default() -> None:
    cfg = load()
    for name, section in SECTIONS.items():
        assert set(cfg[name]) == set(section_options(section))
    assert {"gamma_neg", "gamma_pos", "clip", "detach_weight", "reduction"} <= set(cfg.loss)


def test_an_option_that_the_yaml_file_leaves_out_can_be_set(source: Source) -> None:
    (source.folder / "loss/asl.yaml").write_text("_target_: mltrain.losses.asl.AsymmetricLoss\n")
    assert load(["loss.gamma_neg=3"], source=source).loss == load(["loss=asl", "loss.gamma_neg=3"]).loss


def test_whole_numbers_become_floats_where_a_float_is_asked_for() -> None:
    cfg = load(["optimizer.lr=1", "runner.clip_grad_norm=5"])
    assert isinstance(cfg.optimizer.lr, float)
    assert isinstance(cfg.runner.clip_grad_norm, float)


def test_the_name_says_what_was_chosen() -> None:
    assert load(["model=resnet50", "head=ml_decoder", "loss=bce"]).name == "resnet50-ml_decoder-bce"
    assert load(["name=mine"]).name == "mine"


def test_a_folder_of_ones_own_adds_options_and_recipes(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nseed: 5\n")
    source = Source(extra=(tmp_path,))
    assert load(["+experiment=mine"], source=source).seed == 5
    with pytest.raises(ConfigError, match="did you mean experiment=mine"):
        load(["+experiment=mien"], source=source)


def test_a_config_can_be_composed_while_hydra_is_in_use() -> None:
    from hydra import compose, initialize_config_dir

    from mltrain.config.overrides import CONFIGS

    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        load(["seed=1"])
        assert compose("train", ["seed=3"]).seed == 3


def test_a_run_folder_gives_back_its_config(tmp_path: Path) -> None:
    cfg = load(["seed=4", "loss=bce"])
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    assert load_run(tmp_path) == cfg
    assert load_run(tmp_path, ["runner.device=cpu"]).runner.device == "cpu"
    with pytest.raises(ConfigError, match=r"did you mean runner\.device"):
        load_run(tmp_path, ["runner.devce=cpu"])
    with pytest.raises(ConfigError, match=r"no run folder: there is no such folder"):
        load_run(tmp_path / "nowhere")


def test_a_folder_without_configs_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no train\.yaml here"):
        load(source=Source(tmp_path))


def test_what_is_no_run_folder_is_told_apart(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "shapes" / "name" / "0a1b2c3d"
    run.mkdir(parents=True)
    OmegaConf.save(load(["dataset=shapes"]), run / "config.yaml")
    (run / "best.pt").touch()
    with pytest.raises(ConfigError, match=r"RUN: no run folder: there is no such folder"):
        load_run(tmp_path / "RUN")
    with pytest.raises(ConfigError, match=r"runs: no run folder: .*; one below it is .*0a1b2c3d$"):
        load_run(tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"best\.pt: no run folder but a file; give its folder, .*0a1b2c3d$"):
        load_run(run / "best.pt")


def test_a_part_of_a_finished_run_is_not_exchanged_its_options_are(tmp_path: Path) -> None:
    OmegaConf.save(load(["dataset=shapes"]), tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"loss=bce: a finished run keeps its loss; .*loss\.KEY=VALUE"):
        load_run(tmp_path, ["loss=bce"])
    assert load_run(tmp_path, ["loss.gamma_neg=3"]).loss.gamma_neg == 3


@pytest.mark.parametrize("override", ["loss=bce,asl,", "runner.epochs=[1", "seed=range(0"])
def test_a_syntax_error_is_said_without_the_parsers_tokens(override: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as error:
        load([override])
    assert override in str(error.value)
    assert "EOF" not in str(error.value)
    assert "BRACKET_OPEN" not in str(error.value)


@pytest.mark.parametrize("content", ["", "# nothing\n", "- 1\n", "just text\n", "hello: 1\n"])
def test_a_run_whose_config_is_empty_or_something_else_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.yaml: holds no config of a run; the run is usable"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    "path",
    ["/data/Fotos Übung", "/data/a=b", "/data/it's (1) [x]/#1", "/data/a&b; c.csv", "/data/50%/à + b", "x:\\y z"],
)
def test_a_path_needs_no_quotes_of_hydra(path: str) -> None:
    assert load(["dataset=auto", f"dataset.path={path}"]).dataset.path == path
    assert load_run_with(path) == path


def load_run_with(path: str) -> str:
    return str(parse_override(OverridesParser.create(), f"dataset.path={path}").value())  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ["/data/a,b", "/data/a=b,c", "/data/ü,ä", "it's, mine/x"])
def test_the_advice_for_a_path_with_a_comma_works_to_the_letter(path: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(["dataset=auto", f"dataset.path={path}"])
    advice = re.search(r"(?:one text(?: with a comma|, write)) (.+)$", str(error.value))
    assert advice is not None
    (word,) = shlex.split(advice[1])
    assert load(["dataset=auto", word]).dataset.path == path


def test_what_is_no_text_is_still_refused() -> None:
    for word in ("dataset.path=/a dataset.root=/b", "dataset.path='/a", "loss.gamma=[1,2", "dataset.path==/a"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(["dataset=auto", word])


def test_a_leading_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cfg = load(["dataset=csv", "dataset.file=~/my labels.csv", "dataset.root='~/x'", "paths.runs=~/runs"])
    assert (cfg.dataset.file, cfg.dataset.root, cfg.paths.runs) == (
        "/home/me/my labels.csv",
        "/home/me/x",
        "/home/me/runs",
    )
    assert load(["dataset=csv", "dataset.file=a.csv", "dataset.separator=~"]).dataset.separator == "~"


def test_a_wrong_key_in_the_config_of_a_run_is_reported_with_the_file(tmp_path: Path) -> None:
    cfg = load([])
    OmegaConf.update(cfg, "loss.gama_neg", 3, force_add=True)
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    with pytest.raises(ConfigError) as error:
        load_run(tmp_path, ["runner.batch_sise=4"])
    lines = str(error.value).splitlines()
    assert [str(tmp_path / "config.yaml") in line for line in lines if "gama" in line] == [True]
    assert not any("config.yaml" in line for line in lines if "batch_sise" in line)
