"""What a run's config becomes in tables of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mltrain.config.identity import run_id
from mltrain.config.overrides import CONFIGS
from mltrain.config.schema import DEFAULTS_FOR_OLDER_RUNS, INJECTED
from mltrain.errors import DataError
from mltrain.runs.settings import load_settings, option_name
from tests.report.run_folders import composed, load, write_run

# Files whose options differ from those of another file, or that bring more: the name is that of the component.
ADAMW = ("optimizer/scratch", "optimizer/finetune", "optimizer/finetune_vit")
SAME_TARGET = dict.fromkeys(ADAMW, "adamw") | {"model/finetune": "mobilenetv2_100"}
FILES = sorted(
    (section, path.stem)
    for section in INJECTED
    if section != "dataset"
    for path in (CONFIGS / section).glob("*.yaml")
    if path.stem != "timm"
)


@pytest.mark.parametrize(("section", "option"), FILES)
def test_a_component_is_called_as_on_the_command_line(section: str, option: str) -> None:
    given = yaml.safe_load((CONFIGS / section / f"{option}.yaml").read_text())
    given = given if "_target_" in given else given[section]  # a file of the global package
    assert option_name(section, given) == SAME_TARGET.get(f"{section}/{option}", option)


def test_options_do_not_rename_an_optimizer_and_foreign_classes_go_by_their_name() -> None:
    target = "mltrain.optim.optimizers.adamw"
    for lr in (1e-5, 1e-3, 0.1):
        assert option_name("optimizer", {"_target_": target, "lr": lr}) == "adamw"
    assert option_name("loss", {"_target_": "torch.nn.MultiLabelSoftMarginLoss"}) == "multi_label_soft_margin"
    assert option_name("model", {"_target_": "mltrain.models.backbone.create_backbone", "name": "vgg16"}) == "vgg16"
    assert option_name("partial", {"_target_": None}) == "none"


def test_settings_are_those_of_the_run_id_under_names(tmp_path: Path) -> None:
    full, settings = load_settings(write_run(tmp_path, "loss=bce"))
    assert full["loss"]["_target_"] == "mltrain.losses.bce.BinaryCrossEntropy"
    assert settings["loss"] == "bce" and settings["optimizer.lr"] == full["optimizer"]["lr"]
    assert not {key for key in settings if key.startswith(("paths.", "logger.", "name", "rerun", "data.num_workers"))}
    assert set(DEFAULTS_FOR_OLDER_RUNS) <= set(settings), "shown beside runs that have them otherwise"


def test_where_data_lie_and_how_numbers_are_spelled_make_no_difference(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", changes={"paths.data": "/a", "dataset.root": "/a/shapes"})
    two = write_run(tmp_path / "b", changes={"paths.data": "/b", "dataset.root": "/b/shapes"})
    assert load_settings(one)[1] == load_settings(two)[1]


@pytest.mark.parametrize("text", ["a: [", "- 1", "\x00"])
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path, config_text=text)
    with pytest.raises(DataError, match=r"config\.yaml"):
        load_settings(folder)


def test_new_options_of_metrics_do_not_change_a_run_id() -> None:
    cfg = load(["loss=bce"])
    before = run_id(cfg)
    cfg.metrics.predictions_mb, cfg.metrics.save_predictions = 5.0, True
    assert run_id(cfg) == before
    assert "predictions_mb" in composed("loss=bce")["metrics"]
