# SPDX-License-Identifier: Apache-2.0
"""How alike are the active neurons of neighboring tokens?"""

from __future__ import annotations

import torch
from torch import Tensor


class NeighborOverlap:
    """The mean Jaccard index of a token and the next one of its window.

    It is |both active| / |either active|. A pair of tokens that activate nothing has none and is
    left out.
    """

    def __init__(self, num_layers: int, device: torch.device) -> None:
        self.jaccard_L = torch.zeros(num_layers, dtype=torch.float64, device=device)
        self.num_pairs_L = torch.zeros(num_layers, dtype=torch.int64, device=device)

    def observe(self, layer: int, mask_BSF: Tensor, count_BS: Tensor) -> None:
        """Compare one layer's neighbors."""
        both = (mask_BSF[:, 1:] & mask_BSF[:, :-1]).sum(-1, dtype=torch.int32)
        either = count_BS[:, 1:] + count_BS[:, :-1] - both
        self.jaccard_L[layer] += (both.double() / either.clamp(min=1)).sum()
        self.num_pairs_L[layer] += torch.count_nonzero(either)

    def add(self, other: NeighborOverlap) -> None:
        """Count what another data set's counter has counted."""
        self.jaccard_L += other.jaccard_L
        self.num_pairs_L += other.num_pairs_L

    def mean(self) -> tuple[float, ...]:
        """Return the mean index of each layer; NaN where no pair has one."""
        return tuple((self.jaccard_L / self.num_pairs_L).tolist())
