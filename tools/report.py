"""Write a page to look at in a browser: of a run, or one that compares several. One HTML file; it needs no network.

    python tools/report.py RUN                                report.html in the run folder (training writes it too)
    python tools/report.py runs                               comparison.html there: every run below the folder
    python tools/report.py runs/multirun/2026-01-31_12-00-00  the runs of one sweep, and the jobs that failed
    python tools/report.py RUN RUN RUN --out three.html       some runs
    python tools/report.py runs 'loss=asl|bce' 'epochs>=20' --baseline loss=bce

A filter is KEY=VALUE, with != >= <= > <, alternatives a|b and patterns resnet*, as in tools/results.py; quote it.

    --out FILE            the HTML file
    --images DIR          of a run: folder of its images, where the data have moved
    --baseline FILTER     of several: what differences are to; default: the best setting
    --figure NAME         of several: what is compared: map (default), map_head, map_medium, map_tail ...
    --resamples 1000      of the images, for the intervals of differences; 0: none
    --split auto          of several: val, test; auto: test where all have one
    --weights best        of several: raw, ema; best: those that validation chose in each run
    --each                of several: write the page of every finished run too

docs/reports.md says what is on the pages.
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
