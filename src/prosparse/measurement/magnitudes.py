# SPDX-License-Identifier: Apache-2.0
"""How large are the entries of x_1 that are not zero?"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_EXPONENTS = 256
BIAS = 127
"""Of a float32's exponent: 8 bits that hold 127 for 1 <= |x| < 2."""


def frequencies(values: Tensor, num_values: int) -> Tensor:
    """Return how often each whole number in [0, num_values) occurs, int64 [num_values].

    Args:
        values: Any integer dtype and shape, at most 2^24 of them: they are counted in float32.
        num_values: Of different values.
    """
    # bincount would make the host wait for the largest one, scatter_add the threads for one another.
    counts = torch.histc(values.float(), bins=num_values, min=0, max=num_values)
    return counts.long()


class Magnitudes:
    """Non-zeros counted by the power of two below them, read off the bits of a float32.

    A float32 below the smallest normal number, 2^-126, counts as 2^-127; infinity and NaN as 2^128.
    """

    def __init__(self, num_layers: int, device: torch.device) -> None:
        self.counts_LE = torch.zeros(num_layers, NUM_EXPONENTS, dtype=torch.int64, device=device)

    def observe(self, layer: int, x1: Tensor) -> None:
        """Count one layer's non-zeros; any shape."""
        bits = x1.float().view(torch.int32).flatten()
        self.counts_LE[layer] += frequencies((bits >> 23) & 0xFF, NUM_EXPONENTS)
        self.counts_LE[layer, 0] -= (x1 == 0).sum()

    def add(self, other: Magnitudes) -> None:
        """Count what another data set's counter has counted."""
        self.counts_LE += other.counts_LE

    def histogram(self) -> tuple[int, tuple[tuple[int, ...], ...]]:
        """Return the first exponent with an entry in any layer, and the counts from there on."""
        counts_LE = self.counts_LE.cpu()
        used = counts_LE.sum(0).nonzero().flatten().tolist() or [BIAS]
        first, last = used[0], used[-1]
        return first - BIAS, tuple(map(tuple, counts_LE[:, first : last + 1].tolist()))
