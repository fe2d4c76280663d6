"""Imports go one way, and the library works without Hydra."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.promises.runs import ROOT, environment

GROUND = (
    *("errors", "text", "files", "safe_pickle", "safe_yaml", "seeding", "console", "labels", "progress", "storage"),
    *("transcript", "sizes"),
)
LIBRARY = ("callbacks", "datasets", "longtail", "curriculum", "pipeline", "models", "losses", "metrics", "optim")
BELOW = (*GROUND, *LIBRARY, "config")
ALLOWED = {
    **dict.fromkeys(GROUND, GROUND),
    **{name: (*GROUND, name) for name in LIBRARY},
    "config": BELOW,
    "engine": (*GROUND, *LIBRARY, "engine"),
    "prepare": (*GROUND, *LIBRARY, "prepare"),
    "sweeps": (*BELOW, "engine", "sweeps"),
    "report": (*BELOW, "engine", "report"),
    "runs": (*BELOW, "prepare", "engine", "report", "runs"),
    "cli": (*BELOW, "sweeps", "runs"),
    "commands": (*BELOW, "prepare", "engine", "report", "runs", "cli", "commands"),
    "__main__": ("cli",),
}
KNOW_HYDRA = ("config", "sweeps", "runs", "cli", "commands")
MODULES = sorted((ROOT / "mltrain").rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "mltrain")))
def test_imports_go_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT / "mltrain").with_suffix("").parts
    if parts == ("__init__",):
        assert not [name for name in imported(path) if name.startswith("mltrain.")]
        return
    own = parts[0]
    assert own in ALLOWED, f"{own} has no place in the order of imports"
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package == "mltrain" and rest:
            assert rest.split(".")[0] in ALLOWED[own], f"{path} imports {name}"
        if package in ("hydra", "omegaconf"):
            assert own in KNOW_HYDRA, f"{path} imports {name}: only {KNOW_HYDRA} may"


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions and under TYPE_CHECKING count too."""
    names = {}
    for path in MODULES:
        parts = ("mltrain", *path.relative_to(ROOT / "mltrain").with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    edges = {name: {found for found in imported(path) if found in names} - {name} for name, path in names.items()}
    for name, path in names.items():  # `from package import module` is an import of the module, not of the package
        exact = {found for found in edges[name] if any(other.startswith(found + ".") for other in edges[name])}
        edges[name] -= {
            found for found in exact if names[found].name == "__init__.py" and path.parent == names[found].parent
        }
    try:
        list(graphlib.TopologicalSorter(edges).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_library_is_usable_without_hydra() -> None:
    code = (
        "import sys; sys.modules['hydra'] = sys.modules['omegaconf'] = None\n"
        "from mltrain.losses import AsymmetricLoss, BinaryCrossEntropy, FocalLoss\n"
        "from mltrain.metrics import average_precision\n"
        "from mltrain.models import create_classifier\n"
        "from mltrain.models.heads import GlobalAveragePool, MLDecoder\n"
        "from mltrain.datasets import read_coco, read_csv, read_voc\n"
        "import mltrain.engine.runner, mltrain.report.tables, torch\n"
        "model = create_classifier(name='test_resnet', num_classes=3, head='ml_decoder')\n"
        "loss = AsymmetricLoss(gamma_neg=4, gamma_pos=0, clip=0.05, detach_weight=True)\n"
        "loss(model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)), torch.tensor([[1, 0, -1], [0, 1, 0]])).backward()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr


def test_library_prints_nothing_and_never_exits() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "exit", "quit"), f"{path}:{node.lineno}"
