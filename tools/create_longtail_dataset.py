"""Run `mltrain create_longtail_dataset` from a checkout: python tools/create_longtail_dataset.py ARGUMENTS."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mltrain.cli import main

if __name__ == "__main__":
    main("create_longtail_dataset")
