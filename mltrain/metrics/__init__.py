"""Metrics of multi-label classification: average precision, counts, words at k, thresholds, a summary."""

from mltrain.metrics.average_precision import average_precision, micro_average_precision
from mltrain.metrics.counts import (
    Counts,
    count_above,
    count_at_threshold,
    count_at_topk,
    overall_and_per_class,
    words_at_k,
)
from mltrain.metrics.entries import KnownEntries
from mltrain.metrics.label_ranking import label_ranking
from mltrain.metrics.summary import Summary, summarize
from mltrain.metrics.thresholds import Criterion, adjust_logits, best_cut, best_cuts, best_tau

__all__ = [
    "Counts",
    "Criterion",
    "KnownEntries",
    "Summary",
    "adjust_logits",
    "average_precision",
    "best_cut",
    "best_cuts",
    "best_tau",
    "count_above",
    "count_at_threshold",
    "count_at_topk",
    "label_ranking",
    "micro_average_precision",
    "overall_and_per_class",
    "summarize",
    "words_at_k",
]
