# SPDX-License-Identifier: Apache-2.0
"""How many neurons does each token activate, by its place in the window and as a distribution?"""

from __future__ import annotations

import torch
from torch import Tensor

from prosparse.measurement.frequencies import frequencies
from prosparse.records.activity import TOKEN_BINS


def position_starts(context_length: int) -> tuple[int, ...]:
    """Return the first place of each bucket, 0, 1, 2, 4, 8, ...: as wide as what is before them."""
    starts = [0]
    while (start := max(1, 2 * starts[-1])) < context_length:
        starts.append(start)
    return tuple(starts)


class TokenCounts:
    """Active neurons summed by place, and tokens counted by how many neurons they activate."""

    def __init__(
        self, num_layers: int, d_ff: int, context_length: int, device: torch.device
    ) -> None:
        self.d_ff = d_ff
        self.starts = position_starts(context_length)
        self.active_LS = torch.zeros(num_layers, context_length, dtype=torch.int64, device=device)
        self.tokens_LC = torch.zeros(num_layers, TOKEN_BINS, dtype=torch.int64, device=device)
        self.num_windows = 0

    def observe(self, count_LBS: Tensor) -> None:
        """Count the numbers of active neurons of some windows."""
        self.active_LS += count_LBS.sum(1)
        # A token with all neurons active belongs to the last bin.
        bins_LT = (count_LBS.flatten(1).long() * TOKEN_BINS // self.d_ff).clamp_(max=TOKEN_BINS - 1)
        # All layers at once, each with bins of its own.
        num_layers = len(bins_LT)
        bins_LT += TOKEN_BINS * torch.arange(num_layers, device=bins_LT.device)[:, None]
        self.tokens_LC += frequencies(bins_LT, num_layers * TOKEN_BINS).view(-1, TOKEN_BINS)
        self.num_windows += count_LBS.shape[1]

    def add(self, other: TokenCounts) -> None:
        """Count what another data set's counter has counted."""
        self.active_LS += other.active_LS
        self.tokens_LC += other.tokens_LC
        self.num_windows += other.num_windows

    def by_position(self) -> tuple[tuple[float, ...], ...]:
        """Return the mean active share of each layer in each bucket of places."""
        share_LS = self.active_LS.cpu().double() / (self.num_windows * self.d_ff)
        ends = (*self.starts[1:], share_LS.shape[1])
        buckets = [share_LS[:, a:b].mean(1) for a, b in zip(self.starts, ends, strict=True)]
        return tuple(map(tuple, torch.stack(buckets, dim=1).tolist()))

    def histogram(self) -> tuple[tuple[int, ...], ...]:
        """Return each layer's tokens by their active share, in `TOKEN_BINS` equal bins."""
        return tuple(map(tuple, self.tokens_LC.tolist()))
