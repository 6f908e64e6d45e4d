# SPDX-License-Identifier: Apache-2.0
"""Active entries of x_1, counted while it is read once.

All sums are of integers, so additions in any order give the same counts. Bound by memory: one
pass over x_1; the rows of next tokens come from the cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prosparse.kernels.triton.launch import launch, num_blocks, with_rows

COUNT_BLOCK = {"BLOCK_T": 16, "BLOCK_F": 128, "num_warps": 4}
"""Tokens of a program, and neurons that it has in hand at once."""

GROUP = 32
"""Tokens of a program that counts spans: the bits of a word, and the largest span."""

SPANS = 6
"""Spans of 1, 2, 4, 8, 16 and 32 tokens."""


def count_active(x1_TF: Tensor) -> Tensor:
    """Return the active neurons of each token, int32 [T]."""
    x1_TF = with_rows(x1_TF)
    T, F = x1_TF.shape
    by_token = torch.empty(T, dtype=torch.int32, device=x1_TF.device)
    grid = (num_blocks(T, COUNT_BLOCK["BLOCK_T"]),)
    launch(count_active_kernel, grid, x1_TF, by_token, x1_TF.stride(0), T, F, **COUNT_BLOCK)
    return by_token


def count_activity(x1_BSF: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what tokens, neighbors, neurons and spans of x_1 [B, S, F] activate."""
    x1_BSF = x1_BSF.contiguous()
    (B, S, F), device = x1_BSF.shape, x1_BSF.device
    by_token = torch.empty((B, S), dtype=torch.int32, device=device)
    with_next = torch.empty((B, S - 1), dtype=torch.int32, device=device)
    # By group: atomic additions of all groups to the same F places would take longer than the rest.
    by_group = torch.empty((B * num_blocks(S, GROUP), F), dtype=torch.uint8, device=device)
    by_span = torch.zeros(SPANS, dtype=torch.int64, device=device)
    launch(
        count_activity_kernel,
        (len(by_group),),
        x1_BSF,
        by_token,
        with_next,
        by_group,
        by_span,
        S,
        F,
        GROUP,
        SPANS,
        BLOCK_F=64,
        num_warps=4,
    )
    return by_token, with_next, by_group.sum(0, dtype=torch.int32), by_span


def sample_activity(x1_BSF: Tensor, places_P: Tensor) -> tuple[Tensor, Tensor]:
    """Return masks [B, P, F] and active entries by exponent [256], at `places_P` of x_1 [B, S, F]."""
    x1_BSF = x1_BSF.contiguous()
    (B, S, F), P, device = x1_BSF.shape, len(places_P), x1_BSF.device
    mask = torch.empty((B, P, F), dtype=torch.bool, device=device)
    by_exponent = torch.zeros(256, dtype=torch.int64, device=device)
    block = 256
    launch(
        sample_activity_kernel,
        (P, num_blocks(F, block)),
        x1_BSF,
        places_P,
        mask,
        by_exponent,
        B,
        S,
        P,
        F,
        BLOCK_F=block,
        num_warps=4,
    )
    return mask, by_exponent


@triton.jit
def count_active_kernel(
    x1_ptr,
    by_token_ptr,
    x1_stride,
    T,
    F: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Write the active entries of each row of a block."""
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    rows = x1_ptr + tokens.to(tl.int64)[:, None] * x1_stride
    active = tl.zeros([BLOCK_T, BLOCK_F], tl.int32)
    for first in range(0, F, BLOCK_F):
        neurons = first + tl.arange(0, BLOCK_F)[None, :]
        x1 = tl.load(rows + neurons, mask=(tokens < T)[:, None] & (neurons < F), other=0)
        active += is_active(x1).to(tl.int32)
    tl.store(by_token_ptr + tokens, tl.sum(active, axis=1), mask=tokens < T)


@triton.jit
def count_activity_kernel(
    x1_ptr,
    by_token_ptr,
    with_next_ptr,
    by_group_ptr,
    by_span_ptr,
    S,
    F: tl.constexpr,
    GROUP: tl.constexpr,
    SPANS: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Count GROUP consecutive tokens of a window.

    A neuron's activity on them is one word, a bit for each token: its ones are the tokens on which it
    is active, and the union of two neighboring groups is an OR of bits.
    """
    num_groups = tl.cdiv(S, GROUP)
    window = (tl.program_id(0) // num_groups).to(tl.int64)
    places = tl.arange(0, GROUP)
    tokens = tl.program_id(0) % num_groups * GROUP + places
    num_tokens = tl.minimum(S - tl.program_id(0) % num_groups * GROUP, GROUP)
    rows = x1_ptr + (window * S + tokens)[:, None] * F
    spans = tl.arange(0, 8)
    by_token = tl.zeros([GROUP, BLOCK_F], tl.int32)
    with_next = tl.zeros([GROUP, BLOCK_F], tl.int32)
    by_span = tl.zeros([8, BLOCK_F], tl.int32)
    for first in range(0, F, BLOCK_F):
        neurons = first + tl.arange(0, BLOCK_F)
        inside = (neurons < F)[None, :]
        cells = rows + neurons[None, :]
        x1 = tl.load(cells, mask=(tokens < S)[:, None] & inside, other=0)
        next_x1 = tl.load(cells + F, mask=(tokens + 1 < S)[:, None] & inside, other=0)
        active = is_active(x1)
        by_token += active.to(tl.int32)
        with_next += (active & is_active(next_x1)).to(tl.int32)
        union = tl.sum(active.to(tl.uint32) << places[:, None].to(tl.uint32), axis=0)
        counts = popcount(union).to(tl.uint8)
        tl.store(
            by_group_ptr + tl.program_id(0).to(tl.int64) * F + neurons, counts, mask=neurons < F
        )
        for span in tl.static_range(SPANS):
            if span != 0:
                union = union | (union >> (1 << (span - 1)))
            counts = popcount(union & first_bits(1 << span, num_tokens))
            by_span += tl.where((spans == span)[:, None], counts[None, :], 0)
    is_token = tokens < S
    tl.store(by_token_ptr + window * S + tokens, tl.sum(by_token, axis=1), mask=is_token)
    tl.store(
        with_next_ptr + window * (S - 1) + tokens, tl.sum(with_next, axis=1), mask=tokens + 1 < S
    )
    totals = tl.sum(by_span, axis=1).to(tl.int64)
    tl.atomic_add(by_span_ptr + spans, totals, mask=spans < SPANS, sem="relaxed")


@triton.jit(do_not_specialize=["B"])
def sample_activity_kernel(
    x1_ptr,
    places_ptr,
    mask_ptr,
    by_exponent_ptr,
    B,
    S,
    P,
    F: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Write the masks of one place of all windows and block of neurons; count its exponents."""
    place = tl.load(places_ptr + tl.program_id(0))
    neurons = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    by_exponent = tl.zeros([256], tl.int32)
    for window in range(B):
        cells = x1_ptr + (place + window * S) * F + neurons
        x1 = tl.load(cells, mask=neurons < F, other=0)
        active = is_active(x1)
        row = (window * P + tl.program_id(0)).to(tl.int64)
        tl.store(mask_ptr + row * F + neurons, active, mask=neurons < F)
        bits = x1.to(tl.float32).to(tl.int32, bitcast=True)
        by_exponent += tl.histogram((bits >> 23) & 0xFF, 256, mask=active)
    exponents = tl.arange(0, 256)
    tl.atomic_add(
        by_exponent_ptr + exponents, by_exponent.to(tl.int64), mask=by_exponent != 0, sem="relaxed"
    )


@triton.jit
def first_bits(size: tl.constexpr, num_tokens):
    """Return the bit of the first token of each group of `size` that `num_tokens` <= 32 fill."""
    filled = (num_tokens // size * size).to(tl.int64)
    every: tl.constexpr = 0xFFFFFFFF // ((1 << size) - 1)
    return (((tl.full([], 1, tl.int64) << filled) - 1) & every).to(tl.uint32)


@triton.jit
def is_active(x1):
    """Return which entries are not zero; NaN is not."""
    if x1.dtype == tl.bfloat16:  # by its bits, since Triton's interpreter knows no bfloat16
        x1 = x1.to(tl.int16, bitcast=True) & 0x7FFF
    return x1 != 0


@triton.jit
def popcount(words):
    """Return the ones in each word of 32 bits, int32: sums of bits, of pairs, of fours, of bytes."""
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return ((words * 0x01010101) >> 24).to(tl.int32)
