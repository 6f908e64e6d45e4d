# SPDX-License-Identifier: Apache-2.0
"""Symmetric group quantization of a neuron-major matrix, to 8 or 4 bits.

A row of D values is cut into G groups of `group_size` along d_model; a group has one float16
scale, and value = scale * q.

- 8 bits: q in [-127, 127], int8; the scale is the largest magnitude over 127.
- 4 bits: q in [-8, 7]; the scale, which may be negative, is the value of largest magnitude over -7.75, -8,
  -8.5 or -9, whichever gives the least squared error. Stored as q + 8 in uint8, two a byte: of eight
  consecutive values, byte j = 0..3 holds value j in its low half and value j + 4 in its high half, so
  that one mask and one shift part a 32-bit word in order.
"""

from __future__ import annotations

import torch
from torch import Tensor

DIVISORS_OF_4 = (8.0, 8.5, 9.0, 7.75)
"""From all of them the largest value rounds to -8, so what was rounded once is not rounded again."""


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
    scales = _scales_of_8(groups) if bits == 8 else _scales_of_4(groups)
    q = _nearest(groups, scales, bits).to(torch.int8)
    scales = scales.squeeze(-1)
    if bits == 8:
        return q.reshape(rows, width), scales
    low, high = (q + 8).to(torch.uint8).reshape(rows, -1, 2, 4).unbind(dim=2)
    return (low | (high << 4)).reshape(rows, width // 2), scales


def _scales_of_8(groups: Tensor) -> Tensor:
    """Return the scales of groups [F, G, group_size], float16 [F, G, 1]."""
    return _stored(groups.abs().amax(dim=-1, keepdim=True) / 127)


def _scales_of_4(groups: Tensor) -> Tensor:
    """Return the scales of groups [F, G, group_size], float16 [F, G, 1].

    The largest value gets -8, of which there is no opposite: sixteen steps rather than fifteen. Going
    a little further cuts off the largest for the sake of the others. Over -7 alone, squared errors are
    1.4 times as large.
    """
    largest = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))
    best, least = None, None
    for divisor in DIVISORS_OF_4:
        scales = _stored(largest / -divisor)
        rounded = scales.float() * _nearest(groups, scales, 4)
        error = (groups - rounded).square().sum(dim=-1, keepdim=True)
        if best is None or least is None:
            best, least = scales, error
        else:
            best, least = torch.where(error < least, scales, best), torch.minimum(error, least)
    assert best is not None
    return best


def _stored(scales: Tensor) -> Tensor:
    """Return scales as they are stored: values are the nearest multiples of what is stored.

    A group of zeros, or of values float16 cannot scale, has scale tiny and values zero.
    """
    tiny = torch.finfo(torch.float16).tiny
    stored = scales.to(torch.float16)
    return stored.where(stored.abs() >= tiny, torch.full_like(stored, tiny))


def _nearest(groups: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Return q, in float32."""
    lowest, largest = (-127, 127) if bits == 8 else (-8, 7)
    return (groups / scales.float()).round().clamp(lowest, largest)


def dequantize(values: Tensor, scales: Tensor | None) -> Tensor:
    """Return the float32 matrix [F, D] of (values, scales); unscaled values as they are."""
    if scales is None:
        return values
    if values.dtype == torch.uint8:
        fours = values.reshape(len(values), -1, 1, 4)
        values = torch.cat([fours & 15, fours >> 4], dim=2).to(torch.int8) - 8
    groups = values.reshape(*scales.shape, -1)
    return (groups.float() * scales.float().unsqueeze(-1)).flatten(1)
