# SPDX-License-Identifier: Apache-2.0
"""Which neurons were active, when and how strongly: the distributions behind a sparsity figure.

Everything is counted by layer, lowest first, on the tokens of one data set. A neuron is active for
a token when its entry of the intermediate x_1 is not zero.
"""

from __future__ import annotations

from dataclasses import dataclass

DEAD_BELOW = 0.001
"""A neuron is dead when it is active on fewer than this share of the tokens (Sparsing Law)."""
ALWAYS_ON_ABOVE = 0.999
"""A neuron is always on when it is active on more than this share of the tokens."""
FREQUENCY_EDGES = (
    0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 0.999, 1.0,
)  # fmt: skip
"""Edges of `neuron_histogram`: bin i holds frequencies in [edge i, edge i+1), the last also 1."""
GROUP_SIZES = (1, 2, 4, 8, 16, 32)
"""Numbers of tokens, or of windows, whose union of active neurons is counted."""
TOKEN_BINS = 50
"""Equal bins of `token_histogram` over [0, 1]."""

Layers = tuple[tuple[float, ...], ...]
"""One row of numbers for each layer."""
LayerCounts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Activity:
    """The activity of all neurons on one data set, or on all of them together."""

    num_tokens: int
    d_ff: int
    neuron_histogram: LayerCounts
    """Neurons by the share of tokens they are active on, in the bins of `FREQUENCY_EDGES`."""
    dead: tuple[int, ...]
    """Neurons active on less than 0.1 % of the tokens, for each layer; never active ones included."""
    always_on: tuple[int, ...]
    """Neurons active on more than 99.9 % of the tokens, for each layer."""
    token_histogram: LayerCounts
    """Tokens by the share of the layer's neurons they activate, in `TOKEN_BINS` equal bins."""
    position_starts: tuple[int, ...]
    """First place in the window, from 0, of each bucket of places: 0, 1, 2, 4, 8, ..."""
    position_active: Layers
    """Mean active share in each bucket, in [0, 1]."""
    span_sizes: tuple[int, ...]
    """The k of `span_union`: those of `GROUP_SIZES` that fit into a window."""
    span_union: Layers
    """Mean share of neurons that at least one of k consecutive tokens needs, in [0, 1]."""
    batch_sizes: tuple[int, ...]
    """The b of `batch_union`: those of `GROUP_SIZES` for which there were enough windows."""
    batch_union: Layers
    """Mean share of neurons that at least one of b windows needs at the same place, in [0, 1]."""
    neighbor_jaccard: tuple[float, ...]
    """Mean over neighboring tokens of |both active| / |either active|, in [0, 1]; NaN for none."""
    magnitude_first_exponent: int
    """e of the first bin of `magnitude_histogram`."""
    magnitude_histogram: LayerCounts
    """Non-zeros by magnitude: bin i counts 2^(e+i) <= |x_1| < 2^(e+i+1), on sampled places."""
