# SPDX-License-Identifier: Apache-2.0
"""Step (3): the active rows of the down projection, each scaled and added."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prosparse.kernels.triton.launch import block_sizes, group_size, launch, num_blocks, with_rows
from prosparse.kernels.triton.projection import any_of, load_rows, round_to

MAX_PIECES = 32
"""Into how many pieces the neurons are cut: programs for any GPU, and a small workspace."""

SUM_BLOCK = 64
"""Columns that one program of the closing sum adds up."""


def sparse_down(x1: Tensor, down_projT: Tensor) -> Tensor:
    """Step (3): y [T, D] = x_1 W_2^T of x_1 [T, F] and W_2^T [F, D], in the dtype of x_1."""
    return down(x1, down_projT, None, None, None, x1.dtype)


def down(
    x1: Tensor,
    down_projT: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Return x_1 W_2^T + bias + residual [T, D], summed in float32 and rounded once to `dtype`."""
    T, F = x1.shape
    D = down_projT.shape[1] * (2 if down_projT.dtype == torch.uint8 else 1)
    x1, down_projT = with_rows(x1), with_rows(down_projT)
    residual = None if residual is None else with_rows(residual)
    group = group_size(scales, D)
    blocks = block_sizes(T, D, 256, group)
    pieces = min(num_blocks(F, blocks["BLOCK_F"]), MAX_PIECES)
    partial = torch.empty((pieces, T, D), dtype=torch.float32, device=x1.device)
    y = torch.empty((T, D), dtype=dtype, device=x1.device)
    launch(
        sparse_down_kernel,
        (num_blocks(D, blocks["BLOCK_D"]), pieces),
        x1,
        down_projT,
        scales,
        partial,
        x1.stride(0),
        down_projT.stride(0),
        T,
        D,
        F,
        group,
        pieces,
        **blocks,
    )
    launch(
        sum_pieces_kernel,
        (num_blocks(D, SUM_BLOCK), T),
        partial,
        bias,
        residual,
        y,
        0 if residual is None else residual.stride(0),
        pieces,
        T,
        D,
        MAX_PIECES,
        SUM_BLOCK,
    )
    return y


@triton.jit
def sparse_down_kernel(
    x1_ptr,
    down_ptr,
    scales_ptr,
    partial_ptr,
    x1_stride,
    down_stride,
    T,
    D: tl.constexpr,
    F: tl.constexpr,
    GROUP: tl.constexpr,
    PIECES: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write partial [pieces, T, D]: x_1 W_2^T of one piece of the neurons and block of columns."""
    piece = tl.program_id(1)
    tokens = tl.arange(0, BLOCK_T)[:, None]
    first_column = tl.program_id(0) * BLOCK_D
    products = tl.zeros([BLOCK_T, BLOCK_F, BLOCK_D], tl.float32)
    # A piece is every PIECES-th block, so that clustered neurons are shared out.
    for first_block in range(0, F, PIECES * BLOCK_F):
        neurons = first_block + piece * BLOCK_F + tl.arange(0, BLOCK_F)
        x1 = tl.load(
            x1_ptr + tokens.to(tl.int64) * x1_stride + neurons[None, :],
            mask=(tokens < T) & (neurons < F)[None, :],
            other=0,
        ).to(tl.float32)
        active = any_of(x1 != 0, axis=0)
        if any_of(active, axis=0):
            weights = load_rows(
                down_ptr, scales_ptr, down_stride, neurons, active, first_column, D, GROUP, BLOCK_D
            )
            products += x1[:, :, None] * weights[None, :, :]
    columns = first_column + tl.arange(0, BLOCK_D)[None, :]
    tl.store(
        partial_ptr + (piece * T + tokens).to(tl.int64) * D + columns,
        tl.sum(products, axis=1),
        mask=(tokens < T) & (columns < D),
    )


@triton.jit
def sum_pieces_kernel(
    partial_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    residual_stride,
    num_pieces,
    T,
    D: tl.constexpr,
    MAX_PIECES: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write y [T, D]: the sum of the pieces, bias and residual, of one token and block of columns."""
    token = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    pieces = tl.arange(0, MAX_PIECES)[:, None]
    partial = tl.load(
        partial_ptr + (pieces * T + token) * D + columns[None, :],
        mask=(pieces < num_pieces) & (columns < D)[None, :],
        other=0,
    )
    y = tl.sum(partial, axis=0)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + columns, mask=columns < D, other=0).to(tl.float32)
    if residual_ptr is not None:
        residual_ptrs = residual_ptr + token * residual_stride + columns
        y += tl.load(residual_ptrs, mask=columns < D, other=0).to(tl.float32)
    tl.store(y_ptr + token * D + columns, round_to(y, y_ptr.dtype.element_ty), mask=columns < D)
