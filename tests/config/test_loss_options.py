"""The options of each loss are stated once, in its class docstring: configs and docs repeat them, and are checked here.

`python tests/config/test_loss_options.py` writes the comments of configs/loss/*.yaml anew from the docstrings.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import mltrain.losses
from mltrain.config.signatures import UNKNOWN, read_signature
from mltrain.config.topic_help import docstring_arguments

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "loss").glob("*.yaml"))
INJECTED = ("stats", "num_classes")
WIDTH = 125


def meaning(target: str, option: str) -> str:
    """Return the first sentence about an option; "see `Base`" stands for the base's."""
    return re.split(r"\.(?: |$)", docstring_arguments(target)[option])[0]


def expected(path: Path) -> str:
    """Return the file with the comments that the docstrings give."""
    lines = path.read_text(encoding="utf-8").splitlines()
    target = yaml.safe_load("\n".join(lines))["_target_"]
    kept = [line for line in lines if re.match(r"#|\w", line)]
    options = {line.partition(":")[0]: line.partition(" #")[0].rstrip() for line in kept if re.match(r"[a-z]", line)}
    column = min(max(map(len, options.values())), 21)
    texts = {name: f"{line:<{column}} # {meaning(target, name)}" for name, line in options.items()}
    return "\n".join([*(line for line in kept if line[0] in "#_"), *texts.values()]) + "\n"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_comments_of_a_config_are_those_of_the_docstring(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == expected(path), "python tests/config/test_loss_options.py writes them"
    assert max(map(len, path.read_text(encoding="utf-8").splitlines())) <= WIDTH


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_has_every_option_of_its_loss(path: Path) -> None:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    signature = read_signature(tree.pop("_target_"))
    assert list(tree) == [name for name in signature.parameters if name not in INJECTED]
    defaults = {name: parameter.default for name, parameter in signature.parameters.items() if name in tree}
    changed = {name for name in tree if defaults[name] is not UNKNOWN and tree[name] != defaults[name]}
    assert changed <= {"power"} if path.stem == "sqrt_inverse" else not changed


def signatures() -> list[tuple[str, dict[str, Any]]]:
    text = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    found = re.findall(r"`(\w+)\(\*, ([^`]*)\)`", text)
    calls = [(name, ast.parse(f"f({rest})", mode="eval").body) for name, rest in found]
    return [(name, {k.arg or "": eval_literal(k.value) for k in call.keywords}) for name, call in calls]  # type: ignore[attr-defined]


def eval_literal(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return eval_literal(node.left) / eval_literal(node.right)
    return ast.literal_eval(node)


@pytest.mark.parametrize(("name", "shown"), signatures(), ids=lambda value: value if isinstance(value, str) else "")
def test_signatures_in_the_docs_are_the_real_ones(name: str, shown: dict[str, Any]) -> None:
    parameters = inspect.signature(getattr(mltrain.losses, name)).parameters
    assert shown == {key: parameters[key].default for key in shown}


def test_the_docs_show_the_signatures_of_losses() -> None:
    assert len(signatures()) >= 12


if __name__ == "__main__":
    for config in CONFIGS:
        config.write_text(expected(config), encoding="utf-8")
