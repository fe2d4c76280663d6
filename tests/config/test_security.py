"""A config is data: whatever a file of somebody else says, none of their code runs, and none of ours that acts."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf, open_dict

from mltrain.config.build import instantiate
from mltrain.config.check import find_problems
from mltrain.config.compose import load, load_run
from mltrain.config.overrides import CONFIGS, Source
from mltrain.config.schema import INJECTED
from mltrain.config.signatures import TargetError
from mltrain.config.sweep_settings import compose_settings
from mltrain.config.targets import KINDS, Permission, component_signature, is_foreign
from mltrain.errors import ConfigError, DataError
from mltrain.runs.settings import load_settings
from mltrain.safe_yaml import check_yaml

HAND_WRITTEN = [
    *("posix.system", "os.system", "os.popen", "os.execv", "os.remove", "subprocess.run", "subprocess.Popen"),
    *("builtins.eval", "builtins.exec", "builtins.open", "builtins.__import__", "importlib.import_module"),
    *("pickle.load", "pickle.loads", "_pickle.loads", "shelve.open", "runpy.run_path", "code.interact"),
    *("shutil.rmtree", "shutil.unpack_archive", "urllib.request.urlretrieve", "webbrowser.open", "ctypes.CDLL"),
    *("numpy.load", "numpy.fromfile", "yaml.unsafe_load", "PIL.Image.open", "joblib.load", "hydra.utils.instantiate"),
    *("timm.models.load_state_dict", "timm.models.load_checkpoint", "timm.create_model", "timm.models.create_model"),
    *("timm.models._builder.download_cached_file", "timm.models._hub.load_state_dict_from_hf", "timm.layers.os.system"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.hub.download_url_to_file"),
    *("torch.hub.load_state_dict_from_url", "torch.utils.cpp_extension.load", "torch.ops.load_library"),
    *("torchvision.datasets.CIFAR10", "torchvision.datasets.utils.download_url", "torchvision.io.read_file"),
    *("torchvision.io.write_file", "torch.nn.functional.torch.load", "torch.nn.modules.module.torch.load"),
    *("torch.optim.optimizer.torch.load", "torchvision.transforms.v2.functional.F.torch.load"),
    *("torch.nn.parallel.DistributedDataParallel", "torch.nn.modules.module.functools.partial"),
    *("mltrain.config.cli.os.system", "mltrain.cli.os.system", "mltrain.cli.main", "mltrain.pipeline.cache.Path"),
    *("mltrain.files.write_text", "mltrain.safe_pickle.load", "mltrain.prepare.fetch.fetch"),
    *(
        "mltrain.models.weights.read_state_dict",
        "mltrain.models.export.export_onnx",
        "mltrain.config.signatures.locate",
    ),
    *("mltrain.datasets.csv.Path", "mltrain.losses.base.Fused", "mltrain.engine.step.ModelEma", "mltrain.__main__"),
    *("", ".", "..", "a", "mltrain", "mltrain.", "torch.nn", "torch.nn.", "timm.loss.", "__main__.x", "torch.nn.a b"),
]
ACTS = re.compile(
    r"load|save|download|open|exec|eval|read|write|url|file|cache|pickle|import|system|compile|hub\b|folder|dataset|push|"
    "pull|fork|spawn|launch|install|register|script|trace",
    re.IGNORECASE,
)
CALLS = re.compile(
    r"open|load|loads|save|dump|dumps|read|write|system|[pP]open|run|call|check_call|check_output|execve|exec|eval|compile|"
    r"urlopen|urlretrieve|download|download_url|hf_hub_download|load_state_dict_from_url|load_file|save_file|safe_open|"
    r"__import__|import_module|unlink|remove|rename|mkdir|makedirs|rmtree|connect|kill|Unpickler|Pickler"
)


@functools.cache
def corpus() -> tuple[str, ...]:
    """Names of public callables of torch, torchvision and timm that act, by their name or by what their code calls."""
    import torchvision.transforms.v2  # noqa: F401

    return tuple(
        f"{name}.{key}"
        for name, module in sorted(sys.modules.items())
        if name.split(".")[0] in ("torch", "torchvision", "timm") and isinstance(module, types.ModuleType)
        for key, value in sorted(vars(module).items())
        if not key.startswith("_")
        and callable(value)
        and (ACTS.search(key) or any(map(CALLS.fullmatch, called(value))))
    )


def called(value: Any) -> Iterator[str]:
    """Names that a function, or the constructor of a class, uses."""
    methods = [value.__dict__.get(name) for name in ("__init__", "__new__")] if inspect.isclass(value) else [value]
    for method in methods:
        if inspect.isfunction(method):
            yield from method.__code__.co_names


def test_the_corpus_is_large() -> None:
    names = corpus()
    assert len(names) > 1000
    assert {"torch.load", "timm.models.load_checkpoint", "torchvision.io.read_file"} <= set(names)


@pytest.mark.parametrize("section", KINDS)
@pytest.mark.parametrize("nested", [False, True])
def test_what_acts_is_a_component_of_no_section(section: str, nested: bool) -> None:
    passed = []
    for target in (*HAND_WRITTEN, *corpus()):
        try:
            component_signature(target, section, Permission(), nested=nested)
        except TargetError:
            continue
        passed.append(target)
    assert passed == []


@functools.cache
def config() -> dict[str, Any]:
    tree: Any = OmegaConf.to_container(load())
    return tree


def hostile(target: str) -> dict[str, Any]:
    """A config that names the target in every section, beside and inside its options, and allows it itself."""
    tree = {key: dict(value) if isinstance(value, dict) else value for key, value in config().items()}
    for section in INJECTED:
        inner = {"_target_": target, "command": "touch hacked"}
        tree[section] = {**inner, "x": inner} if section != "model" else {**tree[section], "timm_kwargs": {"x": inner}}
    tree["paths"]["imports"] = [target.partition(".")[0], "posix", "os", "torch", "timm", "builtins"]
    return tree


@pytest.mark.parametrize("part", range(4))
def test_a_config_with_such_targets_is_refused_section_by_section(part: int) -> None:
    names = [*HAND_WRITTEN, *corpus()[:: max(1, len(corpus()) // 400)]]
    assert len(names) > 400
    for target in names[part::4]:
        checked, problems = find_problems(OmegaConf.create(hostile(target)))
        refused = {text.split("=")[0].split(":")[0] for text in problems}
        # what might be a class of torch is imported only if all else is right
        judged = {section for section in INJECTED if not is_foreign(target, section, Permission())}
        expected = {f"{section}._target_" for section in judged - {"model"}}
        assert {*expected, "model.timm_kwargs.x._target_"} <= refused, target
        assert not checked


@pytest.mark.parametrize("target", ["posix.system", "torch.load", "timm.models.load_state_dict", "mltrain.cli.main"])
@pytest.mark.parametrize("section", INJECTED)
def test_an_unchecked_section_is_refused_when_it_is_built(section: str, target: str) -> None:
    tree = hostile(target)
    inside = {**config()[section], "x": {"_target_": target}}
    for given in (tree[section], OmegaConf.create(tree)[section], *([inside] if inside["_target_"] else [])):
        with pytest.raises(ConfigError):
            instantiate(given, section)


@pytest.mark.parametrize("target", HAND_WRITTEN[::4])
def test_a_command_line_a_recipe_and_a_run_folder_are_refused_alike(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"mix\._target_"):
        load([f"mix._target_='{target}'", "+mix.command='touch hacked'"])
    with pytest.raises(ConfigError, match=r"timm_kwargs"):
        load([f"model.timm_kwargs={{x: {{_target_: '{target}', command: 'touch hacked'}}}}"])
    tree = hostile(target)
    recipe = {key: tree[key] for key in ("loss", "mix", "paths")}
    (source.folder / "experiment/mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(recipe))
    with pytest.raises(ConfigError, match=r"(loss|mix)\._target_"):
        load(["+experiment=mine"], source=source)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"(loss|mix)\._target_"):
        load_run(tmp_path)
    assert not (tmp_path / "hacked").exists()


def test_predicting_with_a_run_folder_runs_nothing_of_it(tmp_path: Path) -> None:
    from mltrain.cli import execute

    folder = tmp_path / "run"
    folder.mkdir()
    marker = tmp_path / "hacked"
    tree = dict(config())
    tree["paths"] = {**tree["paths"], "allow_targets": ["posix"]}
    tree["mix"] = {"_target_": "posix.system", "command": f"touch {marker}"}
    tree["model"] = {**tree["model"], "timm_kwargs": {"x": dict(tree["mix"])}}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    for name, words in {"predict": [str(tmp_path)], "evaluate": [], "export": []}.items():
        with pytest.raises(ConfigError, match=r"paths\.imports in a file has no effect"):
            execute(importlib.import_module(f"mltrain.commands.{name}").COMMAND, [str(folder), *words])
    assert not marker.exists()


# -- permission ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A package of a user, with a loss, a function and a name that leads to another package."""
    (tmp_path / "my_losses.py").write_text(
        "import os\nfrom os import system\nfrom torch import nn\n\n"
        "class Mine(nn.Module):\n    def __init__(self, *, beta=1.0):\n        super().__init__()\n"
        "class Plain: pass\n\ndef make() -> nn.Module:\n    return Mine()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "configs/loss").mkdir(parents=True)
    (tmp_path / "configs/loss/mine.yaml").write_text("_target_: my_losses.Mine\nbeta: 2.0\n")
    return Source(extra=(tmp_path / "configs",))


GRANT = "paths.imports=[my_losses]"


def test_permission_comes_from_the_command_line_or_an_argument(mine: Source, tmp_path: Path) -> None:
    assert instantiate(load(["loss=mine", GRANT], source=mine).loss, "loss").__class__.__name__ == "Mine"
    cfg = load(["loss=mine"], source=mine, allow_targets=["my_losses"])
    assert cfg.paths.imports == ["my_losses"]
    for kept in (cfg.copy(), OmegaConf.merge(cfg, {"seed": 1})):
        assert instantiate(kept.loss, "loss") is not None
    OmegaConf.save(cfg, tmp_path / "config.yaml", resolve=True)
    with pytest.raises(ConfigError, match=r"in a file has no effect; .*paths\.imports=\[my_losses\]"):
        load_run(tmp_path)
    for given in (
        load_run(tmp_path, [GRANT]),
        load_run(tmp_path, ["paths={allow_targets: [my_losses]}"]),
        load_run(tmp_path, allow_targets=["my_losses"]),
        load_run(tmp_path, [GRANT, "dataset=digits"]),
    ):
        assert instantiate(given.loss, "loss") is not None
    with pytest.raises(ConfigError, match="not among the packages"):
        instantiate(OmegaConf.load(tmp_path / "config.yaml").loss, "loss")


def test_a_file_gives_no_permission(mine: Source, tmp_path: Path) -> None:
    allows = "paths:\n  allow_targets: [my_losses]\n"
    (tmp_path / "configs/experiment").mkdir()
    (tmp_path / "configs/experiment/mine.yaml").write_text(f"# @package _global_\n{allows}")
    (tmp_path / "configs/loss/global.yaml").write_text(
        f"# @package _global_\n{allows}loss:\n  _target_: my_losses.Mine\n"
    )
    for words in (["loss=mine", "+experiment=mine"], ["loss=global"]):
        with pytest.raises(ConfigError, match="in a file has no effect"):
            load(words, source=mine)
    assert load(["+experiment=mine"], source=mine).paths.imports == []


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        *((name, "no config may call") for name in ("posix", "os", "builtins", "torch", "timm.models", "mltrain")),
        *((name, "must be names of packages") for name in ("a b", "''", "1", "${name}", "a..b", "*")),
    ],
)
def test_packages_that_act_cannot_be_allowed_at_all(package: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load([f"paths.imports=[{package}]"])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("my_losses.Plain", "is not what loss takes: a torch.nn.Module"),
        ("my_losses.os.system", "no class or function|is defined in"),
        ("my_losses.system", "no class or function|is defined in"),
        ("my_losses.nn.functional.torch.load", "is defined in torch.serialization"),
    ],
)
def test_an_allowed_package_gives_no_way_to_another(mine: Source, target: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load(["loss=mine", "~loss.beta", f"loss._target_={target}", GRANT], source=mine)


def test_a_function_of_an_allowed_package_may_build_a_component(mine: Source) -> None:
    cfg = load(["loss=mine", "~loss.beta", "loss._target_=my_losses.make", GRANT], source=mine)
    assert type(instantiate(cfg.loss, "loss")).__name__ == "Mine"


# -- what a config may name ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "target"),
    [
        ("loss", "torch.nn.BCEWithLogitsLoss"),
        ("loss", "torch.nn.MultiLabelSoftMarginLoss"),
        ("loss", "timm.loss.AsymmetricLossMultiLabel"),
        ("head", "torch.nn.Identity"),
        ("augment", "torchvision.transforms.v2.Compose"),
        ("eval_resize", "torchvision.transforms.v2.Resize"),
        ("optimizer", "torch.optim.SGD"),
        ("loss", "mltrain.losses.AsymmetricLoss"),
        ("head", "mltrain.models.MLDecoder"),
    ],
)
def test_components_of_their_kind_are_taken(section: str, target: str) -> None:
    component_signature(target, section, Permission())


def test_the_targets_of_all_configs_are_of_their_sections_kind() -> None:
    found = 0
    for path in CONFIGS.glob("*/*.yaml"):
        target = (yaml.safe_load(path.read_text()) or {}).get("_target_")
        if path.parent.name in KINDS and target is not None:
            component_signature(target, path.parent.name, Permission())
            found += 1
    assert found > 80


def test_components_nest_where_they_compose() -> None:
    cfg = load()
    with open_dict(cfg):
        cfg.augment = {
            "_target_": "torchvision.transforms.v2.Compose",
            "transforms": [{"_target_": "torchvision.transforms.v2.RandomHorizontalFlip", "p": 0.5}],
        }
    assert len(instantiate(cfg.augment, "augment", image_size=8).transform.transforms) == 1
    with pytest.raises(ConfigError, match="cannot stand inside an option"):
        load(["model.timm_kwargs={x: {_target_: mltrain.models.backbone.create_backbone, name: resnet18}}"])


# -- Hydra's own settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "hydra:\n  callbacks:\n    x:\n      _target_: posix.system\n",
        "hydra:\n  sweeper:\n    _target_: posix.system\n",
        "hydra:\n  job_logging:\n    handlers:\n      x:\n        (): posix.system\n",
        "hydra:\n  job:\n    env_set:\n      PATH: /x\n",
        "defaults:\n  - /loss@hydra.callbacks.x: bce\n",
        "defaults:\n  - override /hydra/launcher: submitit_local\nhydra:\n  launcher:\n    setup: [touch hacked]\n",
    ],
)
def test_a_recipe_sets_no_settings_of_hydra_that_run_something(source: Source, text: str) -> None:
    (source.folder / "experiment/mine.yaml").write_text(f"# @package _global_\n{text}")
    with pytest.raises(ConfigError, match="a file cannot set it"):
        compose_settings(["+experiment=mine"], source)


def test_a_recipe_may_choose_a_launcher_and_what_a_sweep_tries(source: Source) -> None:
    text = "defaults:\n  - override /hydra/launcher: joblib\nhydra:\n  launcher:\n    n_jobs: 2\n"
    (source.folder / "experiment/mine.yaml").write_text(
        f"# @package _global_\n{text}  sweeper:\n    params:\n      seed: 1,2\n"
    )
    settings = compose_settings(["+experiment=mine"], source)
    assert (settings.launcher.n_jobs, settings.sweeper.params.seed) == (2, "1,2")
    assert compose_settings(["hydra/launcher=joblib", "+hydra.job.env_set.A=b"], source).job.env_set.A == "b"


# -- files that cannot be read as they seem --------------------------------------------------------------------------

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))
STRINGS = "a0: xxxxxxxxxx\n" + "".join(f"a{k}: ${{a{k - 1}}}${{a{k - 1}}}\n" for k in range(1, 60))
FILES = [
    (BOMB, "aliases repeat more than"),
    ("a: &a [*a]\n", "refers to what contains it"),
    ("a: " + "[" * 100_000, "nest|depth|deep"),
    ("a: " + "[" * 99 + "]" * 99, "nested more than"),
    (STRINGS, "interpolations stand in values with several"),
    ("name: \x07\n", "control characters"),
    ("a: !!python/object/apply:os.system [touch hacked]\n", "could not determine a constructor"),
]


@pytest.mark.parametrize(("text", "expected"), FILES)
def test_a_bomb_is_refused_at_once(source: Source, tmp_path: Path, text: str, expected: str) -> None:
    (source.folder / "experiment/mine.yaml").write_text(f"# @package _global_\n{text}")
    with pytest.raises(ConfigError, match=expected):
        load(["+experiment=mine"], source=source)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config()) + text)
    with pytest.raises(ConfigError, match=expected):
        load_run(tmp_path)
    if text is not STRINGS:
        with pytest.raises(DataError):
            load_settings(tmp_path)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read: 'utf-8'"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"), [("1:30", 90), ("-1:30", -90), ("1:30:00", 5400), ("1:30.5", 90.5), ("010", 8), ("-010", -8)]
)
def test_numbers_that_yaml_reads_in_another_base_are_refused(source: Source, text: str, value: float) -> None:
    assert yaml.safe_load(text) == value
    (source.folder / "experiment/mine.yaml").write_text(f"# @package _global_\nrunner:\n  epochs: {text}\n")
    with pytest.raises(ConfigError, match=rf"mine\.yaml: line 3: {text} is .* in YAML, which is {value}; write the"):
        load(["+experiment=mine"], source=source)
    check_yaml(f"name: '{text}'\n")
    check_yaml("a: 0\nb: 0.5\nc: 1e-3\nd: 100\ne: 0e1\nf: a:1\ng: 2026-01-02\n")


def test_a_value_to_be_set_is_not_taken_from_the_defaults(source: Source, tmp_path: Path) -> None:
    path = source.folder / "experiment/mine.yaml"
    path.write_text("# @package _global_\nseed: ???\nrunner:\n  epochs: ???\n")
    with pytest.raises(ConfigError) as caught:
        load(["+experiment=mine"], source=source)
    text = str(caught.value)
    assert text.startswith("2 problems")
    for key, line in (("seed", 2), ("runner.epochs", 4)):
        assert f"{key}: has no value yet (???); set it (from configs/experiment/mine.yaml, line {line})" in text
    cfg = load(["+experiment=mine", "seed=3", "runner.epochs=7"], source=source)
    assert (cfg.seed, cfg.runner.epochs, cfg.schedule.epochs) == (3, 7, 7)
    (source.folder / "experiment/more.yaml").write_text(
        "# @package _global_\ndefaults:\n  - mine\n  - _self_\nseed: 5\nrunner:\n  epochs: 6\n"
    )
    assert load(["+experiment=more"], source=source).seed == 5
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config(), "seed": "???"}))
    with pytest.raises(ConfigError, match="seed: has no value yet"):
        load_run(tmp_path)
    with pytest.raises(ConfigError, match="seed: has no value yet"):
        load(["seed=???"])


@pytest.mark.parametrize(
    "words",
    [
        ["seed=${seed}"],
        ["seed=${runner.epochs}", "runner.epochs=${seed}"],
        ["runner.epochs=${runner}"],
        ["loss.gamma_neg=${loss}"],
        ["loss={gamma_neg: ${loss}, clip: ${loss}}"],
        ["name=${name}"],
        ["dataset.name=${dataset.name}"],
        ["paths.runs=${paths.data}", "paths.data=${paths.runs}"],
    ],
)
def test_interpolations_in_a_circle_are_refused(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"leads in a circle|parent node"):
        load(words)


@pytest.mark.parametrize("value", ["[a]", "{a: 1}", "null", "''", "1", "[]", "{}", "true"])
@pytest.mark.parametrize("key", ["task", "seed", "rerun", "name", "metrics.best", "sampler._target_", "loss._target_"])
def test_a_value_of_another_kind_is_a_message(key: str, value: str) -> None:
    if (key, value) in {("name", "null"), ("name", "''"), ("seed", "1"), ("rerun", "true"), ("metrics.best", "null")}:
        return
    with pytest.raises(ConfigError, match=rf"{key}(=|:)"):
        load([f"{key}={value}"])


@pytest.mark.parametrize("entry", ["/experiment: mine", "mine", "/experiment/other", "/experiment: [other]"])
def test_a_recipe_that_includes_itself_is_refused(source: Source, entry: str) -> None:
    for name, target in (("mine", entry), ("other", "mine")):
        (source.folder / f"experiment/{name}.yaml").write_text(f"# @package _global_\ndefaults:\n  - {target}\n")
    with pytest.raises(ConfigError, match="experiment=mine: its list of defaults leads back to itself"):
        load(["+experiment=mine"], source=source)


@pytest.mark.parametrize("key", ["name", "dataset.name"])
@pytest.mark.parametrize(
    "value", ["..", "../x", "../../../x", "a/../../x", "/tmp/x", "/", "'a\x07'", "'a\x1b[2J'", "x" * 300]
)
def test_a_run_folder_stays_below_paths_runs(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{key}=.*: names a folder below paths\.runs"):
        load([f"{key}={value}"])
    tree = dict(config())
    if key == "name":
        tree["name"] = value
    else:
        tree["dataset"] = {**tree["dataset"], "name": value}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match="names a folder below"):
        load_run(tmp_path)


@pytest.mark.parametrize("value", ["a", "a/b", "lr=0.1", "été", "a..b", "a b", ".a"])
def test_other_names_of_runs_are_taken(value: str) -> None:
    assert load([f"name='{value}'"]).name == value
