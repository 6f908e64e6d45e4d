# SPDX-License-Identifier: Apache-2.0
"""How many neurons do several tokens need together?

k consecutive tokens share a pass in speculative decoding and prefill, b windows in a batch: what
no token of the group needs can be skipped for all of them. Sizes are powers of two, so that the
union of a group is the union of two groups half as large.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prosparse.records.activity import GROUP_SIZES


class SpanUnion:
    """Unions over k consecutive tokens: a window is cut into groups of k, its rest left out."""

    def __init__(
        self, num_layers: int, d_ff: int, context_length: int, device: torch.device
    ) -> None:
        self.d_ff = d_ff
        self.sizes = tuple(size for size in GROUP_SIZES if size <= context_length)
        shape = (num_layers, len(self.sizes))
        self.active_LK = torch.zeros(shape, dtype=torch.int64, device=device)
        self.context_length = context_length
        self.num_groups_K = [0] * len(self.sizes)

    def observe(self, active_LK: Tensor, num_windows: int) -> None:
        """Count the unions of `num_windows` more windows, of all `GROUP_SIZES`."""
        self.active_LK += active_LK[:, : len(self.sizes)]
        more_K = [num_windows * (self.context_length // size) for size in self.sizes]
        self.num_groups_K = _sum(self.num_groups_K, more_K)

    def add(self, other: SpanUnion) -> None:
        """Count what another data set's counter has counted."""
        self.active_LK += other.active_LK
        self.num_groups_K = _sum(self.num_groups_K, other.num_groups_K)

    def shares(self) -> tuple[tuple[float, ...], ...]:
        """Return the mean share of neurons in a union, for each layer and size."""
        groups_K = torch.tensor(self.num_groups_K, dtype=torch.float64)
        return tuple(map(tuple, (self.active_LK.cpu() / (groups_K * self.d_ff)).tolist()))


class BatchUnion:
    """Unions over b windows at the same place, in the order in which windows come.

    A group of b waits for its other half, so one mask for each size and layer is all that is kept,
    of places spread over the window.
    """

    def __init__(self, num_layers: int, d_ff: int, device: torch.device) -> None:
        self.d_ff = d_ff
        shape = (num_layers, len(GROUP_SIZES))
        self.active_LK = torch.zeros(shape, dtype=torch.int64, device=device)
        self.num_groups_K = [0] * len(GROUP_SIZES)
        self._waiting: dict[int, Tensor] = {}
        """Unions [L, P, F] that wait for another of their size, by index of the size."""

    def observe(self, mask_LBPF: Tensor) -> None:
        """Count the unions that this batch completes."""
        for index in range(len(GROUP_SIZES)):
            self.active_LK[:, index] += mask_LBPF.sum(-1, dtype=torch.int32).sum((1, 2))
            self.num_groups_K[index] += mask_LBPF.shape[1] * mask_LBPF.shape[2]
            if index + 1 == len(GROUP_SIZES):
                return
            waiting = self._waiting.pop(index, None)
            if waiting is not None:
                mask_LBPF = torch.cat([waiting[:, None], mask_LBPF], dim=1)
            if mask_LBPF.shape[1] % 2:
                self._waiting[index] = mask_LBPF[:, -1].clone()
                mask_LBPF = mask_LBPF[:, :-1]
            if not mask_LBPF.shape[1]:
                return
            mask_LBPF = mask_LBPF[:, 0::2] | mask_LBPF[:, 1::2]

    def add(self, other: BatchUnion) -> None:
        """Count what another data set's counter has counted; groups never span data sets."""
        self.active_LK += other.active_LK
        self.num_groups_K = _sum(self.num_groups_K, other.num_groups_K)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes for which there were enough windows."""
        return tuple(s for s, n in zip(GROUP_SIZES, self.num_groups_K, strict=True) if n)

    def shares(self) -> tuple[tuple[float, ...], ...]:
        """Return the mean share of neurons in a union, for each layer and each of `sizes`."""
        groups_K = torch.tensor([n for n in self.num_groups_K if n], dtype=torch.float64)
        active_LK = self.active_LK.cpu()[:, : len(groups_K)]
        return tuple(map(tuple, (active_LK / (groups_K * self.d_ff)).tolist()))


def _sum(a: list[int], b: list[int]) -> list[int]:
    return [x + y for x, y in zip(a, b, strict=True)]
