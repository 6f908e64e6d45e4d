# SPDX-License-Identifier: Apache-2.0
"""Step (2) as an operator of its own."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prosparse.kernels.triton.launch import block_sizes, cut_of, launch, num_blocks, with_rows
from prosparse.kernels.triton.projection import times_up


def sparse_up(gate_pre: Tensor, x: Tensor, up_proj: Tensor, threshold: float = 0.0) -> Tensor:
    """Step (2): x_1 [T, F] of the gate before its activation [T, F], x [T, D] and W_1 [F, D]."""
    (T, D), F = x.shape, len(up_proj)
    gate_pre, x, up_proj = with_rows(gate_pre), with_rows(x), with_rows(up_proj)
    x1 = torch.empty((T, F), dtype=x.dtype, device=x.device)
    blocks = block_sizes(T, D, 1024)
    launch(
        sparse_up_kernel,
        (num_blocks(F, blocks["BLOCK_F"]),),
        gate_pre,
        x,
        up_proj,
        x1,
        gate_pre.stride(0),
        x.stride(0),
        up_proj.stride(0),
        T,
        cut_of(threshold, gate_pre.dtype),
        D,
        F,
        **blocks,
    )
    return x1


@triton.jit
def sparse_up_kernel(
    gate_pre_ptr,
    x_ptr,
    up_ptr,
    x1_ptr,
    gate_stride,
    x_stride,
    up_stride,
    T,
    cut,
    D: tl.constexpr,
    F: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write x1 [T, F] of one block of neurons, from the gate before its activation."""
    tokens = tl.arange(0, BLOCK_T)[:, None]
    neurons = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = (tokens < T) & (neurons < F)[None, :]
    gate_ptrs = gate_pre_ptr + tokens.to(tl.int64) * gate_stride + neurons[None, :]
    gate = tl.load(gate_ptrs, mask=mask, other=0).to(tl.float32)
    gate = tl.where(gate < cut, 0.0, gate)
    x1 = times_up(
        gate,
        x_ptr,
        up_ptr,
        None,
        None,
        x_stride,
        up_stride,
        neurons,
        T,
        D,
        False,
        0,
        BLOCK_T,
        BLOCK_F,
        BLOCK_D,
    )
    tl.store(x1_ptr + tokens.to(tl.int64) * F + neurons[None, :], x1, mask=mask)
