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

    def observe(self, with_next_LBS: Tensor, count_LBS: Tensor) -> None:
        """Compare the neighbors of some windows.

        Args:
            with_next_LBS: Neurons active for a token and its next one, integer [L, B, S - 1].
            count_LBS: Neurons active for a token, integer [L, B, S].
        """
        either = count_LBS[..., 1:] + count_LBS[..., :-1] - with_next_LBS
        self.jaccard_L += (with_next_LBS.double() / either.clamp(min=1)).sum((1, 2))
        self.num_pairs_L += (either != 0).sum((1, 2))

    def add(self, other: NeighborOverlap) -> None:
        """Count what another data set's counter has counted."""
        self.jaccard_L += other.jaccard_L
        self.num_pairs_L += other.num_pairs_L

    def mean(self) -> tuple[float, ...]:
        """Return the mean index of each layer; NaN where no pair has one."""
        return tuple((self.jaccard_L / self.num_pairs_L).tolist())
