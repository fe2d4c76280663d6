"""`mltrain results` on real runs."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from mltrain import cli
from mltrain.commands.results import COMMAND
from mltrain.errors import ConfigError, DataError
from tests.promises.runs import ROOT, TINY, execute, fit
from tests.report.run_folders import write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    for loss, seed in (("bce", 0), ("bce", 1), ("asl", 0)):
        fit(
            [
                *TINY,
                f"paths.runs={folder}",
                f"paths.data={folder}/data",
                f"loss={loss}",
                f"seed={seed}",
                "runner.max_steps=1",
            ]
        )
    return folder


def test_trained_runs_compare_with_intervals(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.execute(COMMAND, [str(runs), "--baseline", "loss=bce", "--resamples", "50"])
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert lines[2][:3] == ["loss", "mAP", "medium"]
    by_loss = {line[0]: " ".join(line) for line in lines[4:6]}
    assert "±" in by_loss["bce"] and " baseline " in by_loss["bce"]
    assert "]" in by_loss["asl"] and "No interval" not in text


def test_formats_files_and_filters(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.execute(
        COMMAND,
        [str(runs), "loss=asl|bce", "epochs>=2", "--out", str(tmp_path / "new" / "r.csv"), "--columns", "map,map_tail"],
    )
    with (tmp_path / "new" / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["loss"] for row in rows} == {"asl", "bce"} and {"map", "map_tail", "map_std"} <= set(rows[0])
    cli.execute(
        COMMAND,
        [str(runs), "seed=0", "--out", str(tmp_path / "r.md"), "--sort", "loss", "--weights", "raw", "--split", "val"],
    )
    lines = (tmp_path / "r.md").read_text().splitlines()
    assert "raw weights" in lines[0] and [line.split()[1] for line in lines[4:6]] == ["asl", "bce"]
    assert capsys.readouterr().out == ""
    cli.execute(
        COMMAND, [str(runs / "shapes"), "--against", str(ROOT / "docs" / "published.yaml"), "--format", "markdown"]
    )
    assert capsys.readouterr().out.startswith("### shapes: validation split")


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["los=asl"], ConfigError, "no run has a los; did you mean loss"),
        (["loss=asl,bce"], DataError, r"loss is asl, bce; alternatives are written loss=a\|b"),
        (["--baseline", "loss=db"], ConfigError, "none of the finished runs is loss=db"),
        (["--columns", "mapp"], ConfigError, "no 'mapp'"),
        (["--sort", "mapp"], ConfigError, "no such figure or setting"),
        (["--resamples", "-1"], ConfigError, "at least 0"),
        (["--format", "html"], ConfigError, r"format=html: must be terminal \| markdown \| csv"),
        (["--split", "test"], DataError, "no figures of the test split"),
        (["--against", "none.yaml"], DataError, "cannot be read"),
        (["--weights", "best", "--figure", "OF1", "--baseline", "epochs=9"], ConfigError, "none of the finished runs"),
    ],
)
def test_mistakes_are_named(runs: Path, words: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cli.execute(COMMAND, [str(runs), *words])


def test_the_tool_answers_without_torch(runs: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mltrain import cli; from mltrain.commands.results import COMMAND\n"
        f"cli.execute(COMMAND, [{str(runs)!r}, '--baseline', 'loss=bce', '--resamples', '20'])\n"
    )
    assert "baseline" in execute([sys.executable, "-c", code]).stdout
    assert "baseline=null" in execute([sys.executable, str(ROOT / "tools" / "results.py"), "--help"]).stdout
    empty = runs / "shapes" / "none"
    empty.mkdir(exist_ok=True)
    done = execute([sys.executable, str(ROOT / "tools" / "results.py"), str(empty)], code=DataError.exit_code)
    assert "holds no run folder" in done.stderr and "Traceback" not in done.stderr


def test_a_table_without_the_baseline_or_a_column_is_shown_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "loss=bce")
    write_run(tmp_path, "loss=asl")
    write_run(tmp_path, "loss=asl", changes={"dataset.name": "other", "optimizer.lr": 0.5})
    cli.execute(COMMAND, [str(tmp_path), "--baseline", "loss=bce", "--resamples", "0", "--columns", "map"])
    text = capsys.readouterr().out
    assert "- None of the finished runs is loss=bce, the baseline." in text.partition("shapes: ")[0]
    assert "baseline" in text.partition("shapes: ")[2]
    write_run(tmp_path, config_text="[")
    cli.execute(COMMAND, [str(tmp_path), "loss=bce"])
    assert "unreadable: " in capsys.readouterr().out
    cli.execute(COMMAND, [str(tmp_path), "--format", "csv", "--columns", "+optimizer.lr"])
    assert "optimizer.lr" in capsys.readouterr().out.splitlines()[0]
