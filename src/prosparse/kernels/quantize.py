# SPDX-License-Identifier: Apache-2.0
"""Symmetric group quantization of a neuron-major matrix, to 8 or 4 bits.

A row of D values is cut into G groups of `group_size` along d_model; a group has one float16
scale, and value = scale * q. 8 bits: q in [-127, 127], int8. 4 bits: q in [-8, 7], stored as
q + 8 in uint8, two a byte: of eight consecutive values, byte j = 0..3 holds value j in its low half
and value j + 4 in its high half, so that one mask and one shift part a 32-bit word in order.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quantize(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Return (values, scales) of a matrix [F, D].

    Args:
        weight: [F, D], D a multiple of `group_size`.
        bits: 8 or 4.
        group_size: Values that share a scale: 32, 64 or 128.

    Returns:
        int8 [F, D] or uint8 [F, D / 2], and the scales, float16 [F, D / group_size].

    Raises:
        ValueError: `bits` is neither 8 nor 4, or `group_size` is none of these or does not divide D.
    """
    if bits not in (8, 4):
        raise ValueError(f"bits must be 8 or 4; found {bits}.")
    rows, width = weight.shape
    if group_size not in (32, 64, 128) or width % group_size:
        raise ValueError(
            f"group_size must be 32, 64 or 128 and divide d_model {width}; found {group_size}."
        )
    groups = weight.float().contiguous().reshape(rows, -1, group_size)
    largest = 127 if bits == 8 else 7
    peak = groups.abs().amax(dim=-1, keepdim=True)
    # The scale is rounded first: values are then the nearest multiples of what is stored. A group
    # of zeros, or of values float16 cannot scale, has scale tiny and values zero.
    scales = (peak / largest).to(torch.float16).clamp_min(torch.finfo(torch.float16).tiny)
    lowest = -127 if bits == 8 else -8
    q = (groups / scales.float()).round().clamp(lowest, largest).to(torch.int8)
    scales = scales.squeeze(-1)
    if bits == 8:
        return q.reshape(rows, width), scales
    low, high = (q + 8).to(torch.uint8).reshape(rows, -1, 2, 4).unbind(dim=2)
    return (low | (high << 4)).reshape(rows, width // 2), scales


def dequantize(values: Tensor, scales: Tensor | None) -> Tensor:
    """Return the float32 matrix [F, D] of (values, scales); unscaled values as they are."""
    if scales is None:
        return values
    if values.dtype == torch.uint8:
        fours = values.reshape(len(values), -1, 1, 4)
        values = torch.cat([fours & 15, fours >> 4], dim=2).to(torch.int8) - 8
    groups = values.reshape(*scales.shape, -1)
    return (groups.float() * scales.float().unsqueeze(-1)).flatten(1)
