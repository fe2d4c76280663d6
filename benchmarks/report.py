"""CPU time and size of the page of a run, by number of classes and images.

    OMP_NUM_THREADS=1 python benchmarks/report.py

Median of 5; runs are made up. Needs the checkout: it makes its runs as the tests do.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mltrain.report.html import page
from mltrain.report.html.run_report import write_run_report
from tests.report.made_runs import make_run

SIZES = ((20, 500), (80, 5000), (374, 500), (9605, 2500))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for classes, images in SIZES:
            run = make_run(Path(folder) / f"{classes}x{images}" / "00000000", classes=classes, images=images)
            write_run_report(run)
            seconds = []
            for _ in range(5):
                page._plotly.cache_clear()  # compressing Plotly's script is a part of every process's first page
                start = time.process_time()
                path = write_run_report(run)
                seconds.append(time.process_time() - start)
            size = path.stat().st_size / 1e6
            print(f"| {classes:,} classes, {images:,} images | {statistics.median(seconds):.2f} s | {size:.1f} MB |")


if __name__ == "__main__":
    main()
