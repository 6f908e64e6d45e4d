# SPDX-License-Identifier: Apache-2.0
"""Distributions and metrics made by hand: two layers of ten neurons."""

from prosparse.records.activity import FREQUENCY_EDGES, TOKEN_BINS, Activity
from prosparse.records.metric import MetricMeasure, MetricPoint


def activity(union=0.5, **changes) -> Activity:
    """A record of 100 tokens; `union` is what 32 tokens need."""
    curve = tuple(0.1 + (union - 0.1) * i / 5 for i in range(6))
    values = {
        "num_tokens": 100,
        "d_ff": 10,
        "neuron_histogram": ((3, *(0,) * (len(FREQUENCY_EDGES) - 3), 7),) * 2,
        "dead": (3, 0),
        "always_on": (0, 2),
        "token_histogram": ((100, *(0,) * (TOKEN_BINS - 1)),) * 2,
        "position_starts": (0, 1, 2, 4),
        "position_active": ((0.4, 0.3, 0.2, 0.1), (0.6, 0.5, 0.4, 0.3)),
        "span_sizes": (1, 2, 4, 8, 16, 32),
        "span_union": (curve, curve),
        "batch_sizes": (1, 2),
        "batch_union": (curve[:2], curve[:2]),
        "neighbor_jaccard": (0.2, 0.4),
        "magnitude_first_exponent": -3,
        "magnitude_histogram": ((1, 2, 3), (4, 5, 6)),
    }
    return Activity(**{**values, **changes})


def point(metric="cett", setting=0.2, increase=0.009, stderr=0.002) -> MetricPoint:
    return MetricPoint(metric, setting, 0.61, (0.6, 0.62), 17.4, increase, stderr)


def metric(chosen=None, budget=0.01, is_met=True) -> MetricMeasure:
    chosen = chosen or point()
    return MetricMeasure(chosen, (17.2,), (0.5, 1.5), (0.19, 0.2), 4096, budget, is_met)
