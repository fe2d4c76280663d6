"""Compare runs: a table of what differs between them and what came of it, mean ± standard deviation over seeds.

    python tools/results.py                                       every run below runs/
    python tools/results.py /data/runs 'loss=asl|bce' 'epochs>=3'   other folders; only some runs
    python tools/results.py --baseline loss=bce                   differences, with 95 % intervals over the images
    python tools/results.py --against docs/published.yaml         published figures below, and how they differ
    python tools/results.py --out results.md                      Markdown; results.csv: csv

A filter is KEY=VALUE, with != >= <= > <, alternatives a|b and patterns resnet*; quote it. KEY is a key of the resolved
config (runner.epochs, or epochs), a section for its option (dataset, model, head, loss, sampler ...), name, seed,
status, or a figure (map>=40).

    --baseline FILTER     the row to compare with; of several the one that agrees in all other settings. Several
                          filters: --baseline 'loss=bce sampler=uniform'
    --figure NAME         what is compared: map (default), map_head, map_medium, map_tail; accuracy of single labels
    --resamples 1000      of the images, for the intervals; 0: none
    --columns A,B         figures and config keys to show (map,map_tail,words_F1); +A,+B: beside the default ones
    --sort KEY            a figure (best first) or a setting; -KEY: the other way round (write --sort=-KEY)
    --split auto          val, test; auto: test where all have one
    --weights best        raw, ema; best: those that validation chose in each run
    --against FILE        published figures
    --format FORMAT       terminal, markdown, csv
    --out FILE            write it there; .md and .csv choose the format

docs/reading_results.md says how to read the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.config import results_tool  # noqa: E402

if __name__ == "__main__":
    results_tool.main(__doc__ or "")
