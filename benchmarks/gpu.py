"""All figures of a GPU in one command, within 8 minutes; the command repeated goes on with what is missing.

    python benchmarks/gpu.py [--minutes 8] [--out gpu-benchmark] [--parts "tests,losses"] [--again]

Parts: the tests that need a GPU; training of tresnet_l at 448 px and ViT-B at 224 and 448 px, in bf16 and channels
last, eager and compiled, beside a bare loop, with memory and the lines at which the host waits for the GPU; kernels of
losses beside a copy; average precision; EMA; a whole run from the cache of resized images. Each part is a process of
its own with a time limit, and each figure is written when it is there: to OUT/gpu.jsonl, at the end with all others of
this GPU, version and commit to OUT/gpu.json and OUT/gpu.md. A part that found no time is in the next call.

A try without a GPU, with tiny models, in which the figures mean nothing: --device cpu --tiny
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `python benchmarks/gpu.py`, whose own folder is there instead

import torch  # noqa: E402

from benchmarks.gpu_parts import PARTS, TINY, Bench, Row, Sizes, end_group  # noqa: E402

LEAST = 15.0
"""seconds below which no part is started"""


class Records:
    """Rows in OUT/gpu.jsonl; those of another GPU, version or commit do not count."""

    def __init__(self, folder: Path, stamp: dict[str, str]) -> None:
        self.file, self.stamp = folder / "gpu.jsonl", stamp

    def write(self, part: str, row: Row) -> None:
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"part": part, **row, "stamp": self.stamp}) + "\n")

    def read(self) -> dict[str, dict[str, Row]]:
        """Return the newest rows by part and name."""
        found: dict[str, dict[str, Row]] = {}
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row.pop("stamp") == self.stamp:
                    found.setdefault(row.pop("part"), {})[row.pop("row")] = row
        return found

    def is_done(self, part: str) -> bool:
        return "done" in self.read().get(part, {})


def stamp(device: str, tiny: bool) -> dict[str, str]:
    """Return what figures depend on."""
    on_gpu = device.startswith("cuda")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "sizes": "tiny" if tiny else "full",
    }


def measure(part: str, bench: Bench, records: Records) -> None:
    """Measure a part in this process and write its rows."""
    try:
        for row in PARTS[part][0](bench):
            records.write(part, row)
    except Exception as error:
        records.write(part, {"row": "error", "what": f"{type(error).__name__}: {error}"[:500]})
        raise
    records.write(part, {"row": "done"})


def run_all(parts: list[str], given: argparse.Namespace, records: Records) -> None:
    """Start each part that is not done, while there is time."""
    end = time.monotonic() + 60 * given.minutes
    for part in parts:
        left = end - time.monotonic()
        if records.is_done(part) and not given.again:
            print(f"{part}: done before", flush=True)
        elif left < LEAST:
            print(f"{part}: no time left; repeat the command", flush=True)
        else:
            start = time.monotonic()
            words = [sys.executable, __file__, "--measure", part, "--device", given.device, "--out", given.out]
            process = subprocess.Popen(words + ["--tiny"] * given.tiny, start_new_session=True)
            try:
                code = process.wait(min(left, PARTS[part][1]))
                said = "done" if code == 0 else f"exit code {code}"
            except subprocess.TimeoutExpired:
                end_group(process)
                said = "took too long; what it measured is kept"
            except BaseException:
                end_group(process)
                raise
            print(f"{part}: {said}, {time.monotonic() - start:.0f} s", flush=True)


def markdown(found: dict[str, dict[str, Row]], stamp: dict[str, str]) -> str:
    """Return a table for each part; training parts, whose columns are equal, share one."""
    lines = [f"{stamp['device']}, torch {stamp['torch']}, commit {stamp['commit']}"]
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for part, rows in found.items():
        for name, row in rows.items():
            if name == "error":
                lines += ["", f"{part} failed: {row['what']}"]
            elif name != "done":
                tables.setdefault(tuple(row), []).append([name, *map(_shown, row.values())])
    for columns, rows_ in tables.items():
        lines += ["", f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
        lines += [f"| {' | '.join(cells)} |" for cells in rows_]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def main(words: list[str] | None = None) -> int:
    """Measure, and write JSON and Markdown; 1 if a part is missing or has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", default="gpu-benchmark")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--again", action="store_true", help="measure parts again that are done")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    parts = given.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"--parts: there is no {', '.join(unknown)}; allowed: {', '.join(PARTS)}")
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; a try without one: --device cpu --tiny")
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    records = Records(out, stamp(given.device, given.tiny))
    if given.measure:
        torch.backends.cudnn.benchmark = True
        try:
            measure(given.measure, Bench(given.device, TINY if given.tiny else Sizes(), out), records)
        except Exception:  # noqa: BLE001 - the other parts go on
            traceback.print_exc()
            return 1
        return 0
    run_all(parts, given, records)
    found = records.read()
    report = {"about": records.stamp, "parts": found}
    (out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = markdown(found, records.stamp)
    (out / "gpu.md").write_text(text, encoding="utf-8")
    print(text)
    return int(not all("done" in found.get(part, {}) for part in parts))


if __name__ == "__main__":
    sys.exit(main())
