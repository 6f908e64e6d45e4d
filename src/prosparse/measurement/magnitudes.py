# SPDX-License-Identifier: Apache-2.0
"""How large are the entries of x_1 that are not zero?"""

from __future__ import annotations

import torch
from torch import Tensor

from prosparse.kernels.activity import NUM_EXPONENTS

BIAS = 127
"""Of a float32's exponent: 8 bits that hold 127 for 1 <= |x| < 2."""


class Magnitudes:
    """Non-zeros counted by the power of two below them, read off the bits of a float32.

    A float32 below the smallest normal number, 2^-126, counts as 2^-127; infinity and NaN as 2^128.
    """

    def __init__(self, num_layers: int, device: torch.device) -> None:
        self.counts_LE = torch.zeros(num_layers, NUM_EXPONENTS, dtype=torch.int64, device=device)

    def observe(self, counts_LE: Tensor) -> None:
        """Count non-zeros by the exponent bits of their float32."""
        self.counts_LE += counts_LE

    def add(self, other: Magnitudes) -> None:
        """Count what another data set's counter has counted."""
        self.counts_LE += other.counts_LE

    def histogram(self) -> tuple[int, tuple[tuple[int, ...], ...]]:
        """Return the first exponent with an entry in any layer, and the counts from there on."""
        counts_LE = self.counts_LE.cpu()
        used = counts_LE.sum(0).nonzero().flatten().tolist() or [BIAS]
        first, last = used[0], used[-1]
        return first - BIAS, tuple(map(tuple, counts_LE[:, first : last + 1].tolist()))
