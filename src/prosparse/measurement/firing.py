# SPDX-License-Identifier: Apache-2.0
"""Where do single neurons fire? The strongest places of each, in memory that tokens do not fill.

The first token of a window is left out. It has no context, models park attention on it, and many
neurons fire there and nowhere else, whatever the token.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

TOKENS_BEFORE, TOKENS_AFTER = 40, 8
"""Of a peak, shown around it; a causal model has seen none of those after."""


@dataclass(frozen=True, slots=True, order=True)
class Firing:
    """One neuron's peak in one window; ordered by strength, then the earlier is the greater."""

    strength: float
    """|x_1| at the peak."""
    order: int
    """Minus the number of windows seen before."""
    data: str = field(compare=False)
    window: int = field(compare=False)
    position: int = field(compare=False)
    peak: int = field(compare=False)
    """Place of the peak in `ids`."""
    ids: tuple[int, ...] = field(compare=False)
    values: tuple[float, ...] = field(compare=False)


class FiringMeter:
    """Counts how often some neurons of one layer fire, and keeps the strongest places of each.

    Args:
        neurons: Their indices.
        num_kept: Places to keep for each, one for a window at most.
    """

    def __init__(self, neurons: Sequence[int], num_kept: int) -> None:
        self.neurons = list(neurons)
        self._num_kept = num_kept
        self._kept: list[list[Firing]] = [[] for _ in self.neurons]
        self._num_windows = 0
        self.num_tokens = 0
        self.num_active = [0] * len(self.neurons)
        """Of the data set under way: tokens on which each neuron was not zero."""
        self.largest = [0.0] * len(self.neurons)

    def begin(self) -> None:
        """Count from zero for the next data set; what was kept stays."""
        self.num_tokens = 0
        self.num_active = [0] * len(self.neurons)
        self.largest = [0.0] * len(self.neurons)

    def observe(self, data: str, first_window: int, ids_BS: Tensor, x1_BSF: Tensor) -> None:
        """Count a batch of windows.

        Args:
            data: The data set's name.
            first_window: Which of its windows comes first in the batch.
            ids_BS: Token ids, int64.
            x1_BSF: The layer's intermediate, any dtype and device.
        """
        x1_BSN = x1_BSF[..., self.neurons].detach().float().cpu()
        x1_BSN[:, 0] = 0
        strength_BN, place_BN = x1_BSN.abs().max(dim=1)
        self.num_tokens += ids_BS[:, 1:].numel()
        for index, count in enumerate((x1_BSN != 0).sum((0, 1)).tolist()):
            self.num_active[index] += count
            self.largest[index] = max(self.largest[index], strength_BN[:, index].max().item())
        for row in range(len(ids_BS)):
            for index, kept in enumerate(self._kept):
                strength = strength_BN[row, index].item()
                if strength == 0 or (len(kept) == self._num_kept and strength <= kept[0].strength):
                    continue
                position = int(place_BN[row, index])
                start = max(0, position - TOKENS_BEFORE)
                shown = slice(start, position + TOKENS_AFTER + 1)
                firing = Firing(
                    strength=strength,
                    order=-(self._num_windows + row),
                    data=data,
                    window=first_window + row,
                    position=position,
                    peak=position - start,
                    ids=tuple(ids_BS[row, shown].tolist()),
                    values=tuple(x1_BSN[row, shown, index].tolist()),
                )
                add = heapq.heappush if len(kept) < self._num_kept else heapq.heapreplace
                add(kept, firing)
        self._num_windows += len(ids_BS)

    def strongest(self, index: int) -> list[Firing]:
        """Return what was kept of the neuron at this place of `neurons`, strongest first."""
        return sorted(self._kept[index], reverse=True)
