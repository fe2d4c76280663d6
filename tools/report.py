"""Write a page to look at in a browser: of a run, or one that compares several. One HTML file; it needs no network.

    python tools/report.py RUN                            report.html in the run folder (training writes it too)
    python tools/report.py runs/coco                      comparison.html: every run below the folder
    python tools/report.py multirun/2026-01-31_12-00-00   the runs of one sweep, and its failed jobs
    python tools/report.py RUN RUN RUN out=three.html     some runs
    python tools/report.py runs/coco loss=asl|bce epochs>=20 baseline=loss=bce

    out=FILE              the HTML file
    images=DIR            of a run: folder of its images, where the data have moved
    baseline=KEY=VALUE    of several: what differences are to; default: the best setting
    resamples=1000        of the images, for the intervals of differences; 0: none
    split=auto            of several: val or test; auto: test where every run has it
    each=true             of several: write the page of every finished run too

What is none of these is a filter of the runs: KEY=VALUE, with !=, >=, <=, > and <; alternatives a|b, patterns res*.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.config import report_tool  # noqa: E402

if __name__ == "__main__":
    report_tool.main(__doc__ or "")
