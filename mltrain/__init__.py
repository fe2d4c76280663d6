"""mltrain: training of multi-label image classifiers, long-tailed label distributions included."""

__version__ = "0.1.0"
