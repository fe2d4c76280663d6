"""Components built from their sections."""

from __future__ import annotations

from pathlib import Path

import pytest

from mltrain.config.build import instantiate
from mltrain.config.compose import load
from mltrain.config.overrides import Source
from mltrain.errors import ConfigError

PROBE = """
from torch import nn

class Probe(nn.Module):
    def __init__(self, *, in_features, size: tuple[int, int] = (1, 1), inner=None, parts=(), fail=False):
        if fail:
            raise ValueError("no good")
        super().__init__()
        self.__dict__.update({key: value for key, value in locals().items() if key != "self"})
"""


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    (tmp_path / "probe_package.py").write_text(PROBE)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "head").mkdir()
    (tmp_path / "head/probe.yaml").write_text("_target_: probe_package.Probe\n")
    return Source(extra=(tmp_path,))


def probe_head(probe: Source, *overrides: str) -> object:
    cfg = load(["head=probe", "paths.imports=[probe_package]", *overrides], source=probe)
    return instantiate(cfg.head, "head", in_features=8, num_classes=5, stats=None)


def test_only_what_the_target_names_is_injected(probe: Source) -> None:
    built = probe_head(probe)
    assert vars(built)["in_features"] == 8
    assert not {"num_classes", "stats"} & vars(built).keys()


def test_components_inside_options_are_built_first(probe: Source) -> None:
    inner = "{_target_: probe_package.Probe, size: [2, 3]}"
    built = vars(probe_head(probe, f"head.inner={inner}", f"head.parts=[{inner},{inner}]"))
    assert type(built["inner"]).__name__ == "Probe"
    assert vars(built["inner"])["in_features"] == 8
    assert [vars(part)["size"] for part in built["parts"]] == [[2, 3], [2, 3]]


def test_lists_become_the_tuples_that_a_signature_asks_for() -> None:
    from torch import nn

    optimizer = instantiate(load().optimizer, "optimizer", model=nn.Linear(2, 2))
    assert optimizer.defaults["betas"] == (0.9, 0.999)


def test_what_a_component_refuses_is_an_error_of_the_config(probe: Source) -> None:
    with pytest.raises(ConfigError, match=r"head \(probe_package\.Probe\): no good"):
        probe_head(probe, "head.fail=true")


def test_a_section_that_is_switched_off_is_none() -> None:
    assert instantiate(load(["ema=none"]).ema, "ema", model=None) is None


def test_an_unchecked_section_is_bound_before_it_is_called() -> None:
    with pytest.raises(ConfigError, match=r"loss\.gama_neg: .*did you mean loss\.gamma_neg"):
        instantiate({"_target_": "mltrain.losses.AsymmetricLoss", "gama_neg": 1.0}, "loss")
    with pytest.raises(ConfigError, match="needs in_features, num_classes"):
        instantiate({"_target_": "mltrain.models.heads.gap.GlobalAveragePool"}, "head")
    with pytest.raises(ConfigError, match="not among the packages"):
        instantiate({"_target_": "os.system"}, "loss")


def test_a_value_outside_the_table_cannot_be_injected() -> None:
    with pytest.raises(ValueError, match=r"model cannot be injected in loss"):
        instantiate(load().loss, "loss", model=None)
