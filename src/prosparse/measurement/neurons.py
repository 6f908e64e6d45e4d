# SPDX-License-Identifier: Apache-2.0
"""On how many tokens is each neuron active?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from prosparse.records.activity import ALWAYS_ON_ABOVE, DEAD_BELOW, FREQUENCY_EDGES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NEURONS_NAME = "neurons.npz"


class NeuronCounts:
    """Tokens on which each neuron was active; 8 bytes a neuron, however many tokens pass."""

    def __init__(self, num_layers: int, d_ff: int, device: torch.device) -> None:
        self.active_LF = torch.zeros(num_layers, d_ff, dtype=torch.int64, device=device)
        self.num_tokens = 0

    def observe(self, active_LF: Tensor, num_tokens: int) -> None:
        """Count the tokens, of `num_tokens` more, on which each neuron was active."""
        self.active_LF += active_LF
        self.num_tokens += num_tokens

    def add(self, other: NeuronCounts) -> None:
        """Count what another data set's counter has counted."""
        self.active_LF += other.active_LF
        self.num_tokens += other.num_tokens

    def frequency_LF(self) -> Tensor:
        """Return the share of tokens on which each neuron was active, float64 [L, F], on the CPU."""
        return self.active_LF.cpu().double() / self.num_tokens

    def histogram(self) -> tuple[tuple[int, ...], ...]:
        """Return each layer's neurons by frequency, in the bins of `FREQUENCY_EDGES`."""
        edges = torch.tensor(FREQUENCY_EDGES[1:-1], dtype=torch.float64)
        bins_LF = torch.bucketize(self.frequency_LF(), edges, right=True)
        num_bins = len(FREQUENCY_EDGES) - 1
        return tuple(
            tuple(torch.bincount(bins_F, minlength=num_bins).tolist()) for bins_F in bins_LF
        )

    def dead(self) -> tuple[int, ...]:
        """Return how many neurons of each layer are active on under 0.1 % of the tokens."""
        return tuple((self.frequency_LF() < DEAD_BELOW).sum(1).tolist())

    def always_on(self) -> tuple[int, ...]:
        """Return how many neurons of each layer are active on over 99.9 % of the tokens."""
        return tuple((self.frequency_LF() > ALWAYS_ON_ABOVE).sum(1).tolist())


def write_counts(counts: Mapping[str, NeuronCounts], folder: Path) -> Path:
    """Write `neurons.npz`: how often each single neuron was active; return its path.

    It holds `data` (names of the N data sets), `num_tokens` int64 [N], and `active` int64 [N, L, F],
    the tokens of each data set on which a neuron was active.
    """
    path = folder / NEURONS_NAME
    np.savez_compressed(
        path,
        data=np.array(list(counts)),
        num_tokens=np.array([count.num_tokens for count in counts.values()]),
        active=np.stack([count.active_LF.cpu().numpy() for count in counts.values()]),
    )
    return path
