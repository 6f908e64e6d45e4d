# SPDX-License-Identifier: Apache-2.0
"""Count active neurons while a model runs, storing counts and never activations.

Activation sparsity is the share of exact zeros in the intermediate x_1, the input of `down_proj`
(Section 3.1 of ProSparse). An entry is active when it is not zero: `up` can be negative, so `> 0`
would be wrong.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prosparse.kernels.activity import count_active
from prosparse.model.tap import tap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prosparse.model.ffn import FFN


class SparsityMeter:
    """Active entries of x_1 by layer, summed over every token that passes while it watches."""

    def __init__(self, ffns: Sequence[FFN], device: torch.device) -> None:
        self._ffns = ffns
        # Counts stay on the device, so that watching never makes a GPU wait for the host.
        self._active_L = torch.zeros(len(ffns), dtype=torch.int64, device=device)
        self._num_entries_L = [0] * len(ffns)
        self._seen: dict[int, Tensor] = {}
        """Of this pass so far, by layer: the active neurons of each token."""

    @contextmanager
    def watch(self) -> Iterator[SparsityMeter]:
        """Count in every forward pass of the model inside the block."""
        with tap(self._ffns, self._observe):
            yield self

    def _observe(self, layer: int, x1: Tensor) -> None:
        # Layers are summed together once a pass is through: a small model's pass takes as long as it
        # takes to launch its kernels, and each one more shows.
        self._seen[layer] = count_active(x1.detach().reshape(-1, x1.shape[-1]))
        self._num_entries_L[layer] += x1.numel()
        if len(self._seen) == len(self._ffns):
            counts_LT = torch.stack([self._seen[index] for index in range(len(self._ffns))])
            self._active_L += counts_LT.sum(1)
            self._seen.clear()

    def layer_sparsity(self) -> tuple[float, ...]:
        """Return each layer's share of zeros so far, in [0, 1]; NaN where no token has passed."""
        active = self._active_L.tolist()
        return tuple(
            1 - count / total if total else float("nan")
            for count, total in zip(active, self._num_entries_L, strict=True)
        )
