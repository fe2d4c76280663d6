"""The files that a public project has agree with each other."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import mltrain

ROOT = Path(__file__).parents[2]


def test_the_citation_and_the_changelog_name_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == mltrain.__version__ and citation["license"] == "Apache-2.0"
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None and newest[1] == mltrain.__version__


def test_the_public_workflow_runs_what_the_project_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["check"]
    assert job["steps"][-1]["run"] == ".ci/run"
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.13"]


def test_every_link_of_the_contributing_page_exists() -> None:
    for page in ("CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{page}: {link}"
