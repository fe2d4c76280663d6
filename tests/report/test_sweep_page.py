"""The page that compares runs shows every setting, its spread, differences and what failed; and tools/report.py."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mltrain import cli
from mltrain.commands import report as command
from mltrain.config.overrides import command_options
from mltrain.engine.run_folder import RunFolder
from mltrain.errors import ConfigError, DataError
from mltrain.report.compare import compare
from mltrain.report.html.factors import looks_of
from mltrain.report.repeat import command_of
from mltrain.report.runs import read_runs
from mltrain.runs.image_roots import image_roots
from mltrain.runs.settings import load_settings
from tests.report.browser import Opened, browser
from tests.report.made_runs import EVIL, make_run

LOSSES = {"asl": 3.0, "bce": 2.6, "focal": 2.5}


def report(argv: list[str]) -> Path:
    """`mltrain report` in this process; the file of the page."""
    given = cli._parse(command.COMMAND, argv)
    options, rest = command_options(command.Options, given.arguments, suggest=False)
    return command.report(rest, options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three losses with two seeds each, one run that stopped, and the page of one run."""
    base = tmp_path_factory.mktemp("work") / "made"
    for loss, skill in LOSSES.items():
        for seed in (0, 1):
            make_run(base / f"small-gap-{loss}" / f"{seed:08}", classes=12, seed=seed, skill=skill, loss=loss)
    stopped = make_run(base / "small-gap-bce" / "00000002", classes=12, seed=2, loss="bce")
    (stopped / "result.json").unlink()
    report([str(base / "small-gap-asl" / "00000000")])
    return base


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def opened(runs: Path, chromium: Any) -> Opened:
    path = report([str(runs), "--baseline", "loss=bce", "--resamples", "200"])
    assert path == runs / "comparison.html"
    return Opened(chromium, path)


def test_page_says_nothing_to_the_console_and_asks_for_nothing(opened: Opened) -> None:
    assert opened.said == []
    assert opened.network == []


def test_every_section_is_there(opened: Opened) -> None:
    titles = ["Results", "Comparison", "Learning curves", "Differences", "Runs", "Not finished (1)"]
    assert opened.texts("section h2") == titles


def test_settings_have_mean_and_spread_over_seeds_and_the_best_is_marked(opened: Opened, runs: Path) -> None:
    rows = opened.page.locator('[data-table="t0-results"] tbody tr')
    assert rows.count() == 3
    first = rows.first.locator("td").all_inner_texts()
    assert first[:2] == ["asl", "2"]
    scores = [
        json.loads((runs / "small-gap-asl" / f"{seed:08}" / "result.json").read_text())["best"] for seed in (0, 1)
    ]
    mean = sum(score["map"] for score in scores) / 2
    assert first[2].startswith(f"{mean:.2f} ± ")
    assert rows.first.locator("td.best").count() >= 1
    opened.page.locator('[data-table="t0-results"] th button').nth(2).click()
    shown = [float(t.split(" ")[0]) for t in opened.texts('[data-table="t0-results"] tbody td:nth-child(3)')]
    assert shown == sorted(shown, reverse=True)


def test_plots_are_drawn(opened: Opened) -> None:
    assert opened.drawn("t0-ranking", ".scatterlayer path.point") == 3 + 6, "means, and each run"
    assert opened.drawn("t0-ranking", ".errorbar") == 3
    bars = opened.drawn("t0-groups", ".bars path")
    assert bars % 3 == 0 and bars >= 9
    assert opened.drawn("t0-curves", ".scatterlayer path.js-line") == 6, "a line for each run"
    assert opened.drawn("t0-differences", ".errorbar") == 2, "an interval for each loss but the baseline"


def test_differences_have_their_intervals(opened: Opened) -> None:
    rows = opened.page.locator('[data-table="t0-differences"] tbody tr')
    assert rows.count() == 2
    for k in range(2):
        value, low, high = (float(text) for text in rows.nth(k).locator("td").all_inner_texts()[1:4])
        assert low < value < high
    assert rows.first.locator("td").nth(1).inner_text().startswith("+"), "asl is above bce"


def test_runs_link_to_their_pages(opened: Opened, runs: Path) -> None:
    links = opened.page.locator('[data-table="t0-runs"] a')
    assert links.count() == 1
    assert (runs / str(links.first.get_attribute("href"))).resolve().is_file()


def test_stopped_run_is_listed(opened: Opened) -> None:
    cells = opened.texts('[data-table="unfinished"] td')
    assert "small-gap-bce, seed 2" in cells[0]
    assert cells[1:] == ["stopped", "epoch 3 of 3, step 75"]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three losses with each of two heads."""
    base = tmp_path_factory.mktemp("grid") / "made"
    for (loss, skill), head in itertools.product(LOSSES.items(), ("gap", "ml_decoder")):
        name = f"small-{head}-{loss}"
        better = skill + 0.4 * (head == "gap")
        make_run(base / name / "00000000", classes=8, images=40, epochs=1, skill=better, loss=loss, head=head)
    return base


def test_two_settings_are_told_by_colour_and_by_shape(grid: Path) -> None:
    (table,) = compare(read_runs([grid], load_settings))
    assert table.columns == ["head", "loss"]
    looks = looks_of(table)
    assert (looks.hue, looks.shape) == ("loss", "head"), "the one with more values is the colour"
    seen = {(row.settings["loss"], row.settings["head"]): looks.of(row) for row in table.rows}
    assert len({look.color for look in seen.values()}) == 3 and len({look.symbol for look in seen.values()}) == 2
    for (loss, head), look in seen.items():
        assert look.color == seen[loss, "gap"].color and look.symbol == seen["asl", head].symbol
    legend = [trace["name"] for trace in looks.legend("line")]
    assert legend == ["loss=asl", "loss=bce", "loss=focal", "head=gap", "head=ml_decoder"]


def test_pivot_has_the_mean_of_each_pair_of_settings(grid: Path, chromium: Any) -> None:
    page = Opened(chromium, report([str(grid), "--resamples", "0"]))
    assert page.said == []

    def figure(loss: str, head: str, key: str) -> float:
        result = json.loads((grid / f"small-{head}-{loss}" / "00000000" / "result.json").read_text())
        return float(result[result["best"]["weights"]][key])

    box = '[data-pivot="t0-pivot"]'
    rows = page.csv(box)
    assert [row["head"] for row in rows] == ["gap", "ml_decoder"] and list(rows[0]) == ["head", "asl", "bce", "focal"]
    for row in rows:
        for loss in LOSSES:
            assert float(row[loss]) == pytest.approx(figure(loss, row["head"], "map"), abs=1e-3)
    margin = [float(text) for text in page.texts(f"{box} tbody tr:nth-child(3) td")[:3]]
    means = [(figure(loss, "gap", "map") + figure(loss, "ml_decoder", "map")) / 2 for loss in LOSSES]
    assert margin == pytest.approx(means, abs=0.006)
    page.page.get_by_label("rows", exact=True).select_option("loss")
    page.page.get_by_label("figure", exact=True).select_option("OF1")
    rows = page.csv(box)
    assert list(rows[0]) == ["loss", "gap", "ml_decoder"], "the two have changed places"
    assert float(rows[1]["gap"]) == pytest.approx(figure("bce", "gap", "OF1"), abs=1e-3)
    assert page.texts("#t0-results .tile small.muted")[2].startswith("head="), "settings have their keys"


def test_commands_repeat_the_runs(tmp_path: Path) -> None:
    def command(words: list[str], **environment: Any) -> str:
        folder = tmp_path / "runs" / "made" / "small-gap-asl" / "0a"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text("{}")
        (folder / "environment.json").write_text(json.dumps({"command": words, **environment}))
        return command_of(RunFolder(folder))

    assert command(["/x/tools/train.py", "loss=asl", "name=a b"]) == "mltrain train loss=asl 'name=a b'"
    assert command(["/x/bin/mltrain", "train", "loss=asl"]) == "mltrain train loss=asl"
    assert command(["train.py"], world_size=2) == "torchrun --nproc_per_node=2 -m mltrain train"
    assert command([]) == ""
    sweep = tmp_path / "sweep"
    words = ["train.py", "-m", "loss=asl,bce", f"hydra.sweep.dir='{sweep}'"]
    assert command(words) == "mltrain train -m loss=asl,bce", "without its record, the whole sweep"
    sweep.mkdir()
    job = {"number": 0, "overrides": "loss=asl name=a b seed=1", "folder": "runs/made/small-gap-asl/0a"}
    (sweep / "job-0000.json").write_text(json.dumps(job))
    assert command(words) == "mltrain train loss=asl 'name=a b' seed=1"


def test_folder_of_a_sweep_lists_its_failed_jobs(runs: Path, tmp_path: Path, chromium: Any) -> None:
    sweep = tmp_path / "2026-01-31_12-00-00"
    sweep.mkdir()
    (sweep / "multirun.yaml").write_text("")
    finished = {"overrides": "loss=asl", "state": "finished", "folder": str(runs / "small-gap-asl" / "00000000")}
    failed = {"overrides": f"loss=bce name={EVIL}", "state": "failed", "folder": None, "error": "no such file: x"}
    later = finished | {"state": "failed", "error": "finished by a later command"}
    for k, job in enumerate((finished, failed, later)):
        (sweep / f"job-{k:04}.json").write_text(json.dumps(job | {"number": k}))
    path = report([str(sweep)])
    page = Opened(chromium, path)
    assert page.said == []
    assert page.texts('[data-table="unfinished"] td') == [failed["overrides"], "failed", "no such file: x"]
    assert page.page.evaluate("window.hacked === undefined")
    assert "one setting only" in page.texts("#left-out")[0]


def test_filters_choose_the_runs(runs: Path, tmp_path: Path) -> None:
    text = report(
        [str(runs), "loss=asl|focal", "seed=0", "--out", str(tmp_path / "two.html"), "--resamples", "0"]
    ).read_text()
    assert "2 finished runs" in text
    with pytest.raises(DataError, match="none of 7 runs is loss=zlpr"):
        report([str(runs), "loss=zlpr"])
    with pytest.raises(ConfigError, match="loss=ral, the baseline"):
        report([str(runs), "--baseline", "loss=ral"])


def test_each_writes_the_page_of_every_finished_run(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "made"
    shutil.copytree(runs / "small-gap-bce", copy)
    report([str(copy), "--each", "--resamples", "0"])
    assert [(copy / f"{k:08}" / "report.html").is_file() for k in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=x.html"], "name a run folder"),
        (["nowhere"], "no such folder"),
        (["RUN", "--baseline", "loss=bce"], "baseline=loss=bce is for the comparison of several runs"),
        (["RUN", "--each"], "each=true is for the comparison of several runs"),
        (["RUN", "loss=bce"], "filters are for several runs"),
        (["ALL", "--resamples", "many"], "resamples=many: must be int of at least 0"),
        (["ALL", "--resamples=-1"], "must be int of at least 0"),
        (["ALL", "--split", "train"], r"split=train: must be auto \| val \| test"),
        (["ALL", "los=bce"], "no run has a los; did you mean loss"),
        (["ALL", "--figure", "mpa"], "mpa"),
        (["ALL", "--out", "/proc/none/x.html"], "cannot be written"),
    ],
)
def test_wrong_words_are_refused(runs: Path, words: list[str], message: str) -> None:
    named = {"RUN": str(runs / "small-gap-asl" / "00000000"), "ALL": str(runs)}
    with pytest.raises((ConfigError, DataError), match=message):
        report([named.get(word, word) for word in words])


def test_images_are_found_beside_the_label_file_and_missing_ones_do_no_harm(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", classes=12, pictures=tmp_path / "run")
    assert image_roots(run) == {"val": tmp_path / "run"}
    shutil.rmtree(tmp_path / "run" / "val")
    assert image_roots(run) == {}
    text = report([str(run)]).read_text()
    assert "Without pictures: their folder is not known" in text
    report([str(run), "--images", str(tmp_path)])


def test_reports_need_no_torch(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    code = "import sys; sys.modules['torch'] = None\nfrom mltrain.cli import main\nmain('report')"
    for words in ([str(runs / "small-gap-asl" / "00000000")], [str(runs), "--resamples", "20"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
