# SPDX-License-Identifier: Apache-2.0
"""What all kernels of one call have in common, and how the C++ calls the formats of weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Narrower models are launches and waits for memory rather than bytes: what may be needed is asked for
# at once, and before the input is there.
LEAST_WIDTH_OF_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """What all kernels of one FFN call have in common; hashable."""

    tokens: int
    d_model: int
    d_ff: int
    dtype: torch.dtype
    aligned: bool
    """Whether every row starts at a 16-byte boundary, so that 8 values are loaded at once."""
    capability: tuple[int, int]
    """Of the device, e.g. (9, 0)."""

    @property
    def vec(self) -> int:
        """Values of a row that a lane loads at once."""
        return 8 if self.aligned and self.d_model % 8 == 0 else 1

    @property
    def overlaps(self) -> bool:
        """Whether the device has clusters, and kernels that start while the one before still runs."""
        return self.capability >= (9, 0)

    @property
    def is_narrow(self) -> bool:
        """Whether its time is not that of reading its weights."""
        return self.d_model < LEAST_WIDTH_OF_BYTES

    @property
    def has_tiles(self) -> bool:
        """Whether tensor cores can multiply it: 16-bit activations, no ragged rows."""
        whole = self.d_model % 32 == 0 and self.d_ff % 8 == 0
        return self.dtype != torch.float32 and self.vec == 8 and whole


def weight_format(values: Tensor | None, scales: Tensor | None, d_model: int) -> str:
    """Return the C++ type that reads a matrix: `Dense`, `Int8<group>` or `Int4<group>`."""
    if values is None or scales is None:
        return "Dense"
    bits = 4 if values.dtype == torch.uint8 else 8
    return f"Int{bits}<{d_model // scales.shape[1]}>"
