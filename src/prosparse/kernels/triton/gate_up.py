# SPDX-License-Identifier: Apache-2.0
"""Steps (1) and (2) in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.triton.launch import (
    block_sizes,
    cut_of,
    group_size,
    launch,
    num_blocks,
    with_rows,
)
from prosparse.kernels.triton.projection import project, round_to, times_up


def gate_up(x: Tensor, weights: FFNWeights) -> Tensor:
    """Steps (1) and (2): the intermediate x_1 [T, F] of x [T, D], in the dtype of x."""
    (T, D), F = x.shape, len(weights.gate_proj)
    x, gate = with_rows(x), with_rows(weights.gate_proj)
    up = None if weights.up_proj is None else with_rows(weights.up_proj)
    gate_group = group_size(weights.gate_scales, D)
    up_group = group_size(weights.up_scales, D)
    x1 = torch.empty((T, F), dtype=x.dtype, device=x.device)
    blocks = block_sizes(T, D, 1024, gate_group, up_group)
    launch(
        gate_up_kernel,
        (num_blocks(F, blocks["BLOCK_F"]),),
        x,
        gate,
        weights.gate_scales,
        weights.gate_bias,
        up,
        weights.up_scales,
        weights.up_bias,
        x1,
        x.stride(0),
        gate.stride(0),
        0 if up is None else up.stride(0),
        T,
        cut_of(weights.threshold, x.dtype),
        weights.shift,
        D,
        F,
        weights.up_relu,
        gate_group,
        up_group,
        **blocks,
    )
    return x1


@triton.jit
def gate_up_kernel(
    x_ptr,
    gate_ptr,
    gate_scales_ptr,
    gate_bias_ptr,
    up_ptr,
    up_scales_ptr,
    up_bias_ptr,
    x1_ptr,
    x_stride,
    gate_stride,
    up_stride,
    T,
    cut,
    shift,
    D: tl.constexpr,
    F: tl.constexpr,
    UP_RELU: tl.constexpr,
    GATE_GROUP: tl.constexpr,
    UP_GROUP: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write x1 [T, F] of one block of neurons: gate, activation, and up where it is active."""
    tokens = tl.arange(0, BLOCK_T)[:, None]
    neurons = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = (tokens < T) & (neurons < F)[None, :]
    gate = project(
        x_ptr,
        gate_ptr,
        gate_scales_ptr,
        gate_bias_ptr,
        x_stride,
        gate_stride,
        neurons,
        neurons < F,
        T,
        D,
        GATE_GROUP,
        BLOCK_T,
        BLOCK_F,
        BLOCK_D,
    )
    gate = round_to(gate - shift, x_ptr.dtype.element_ty)
    # Outside T and F a gate may hold a bias, or NaN of x: it must not make a neuron active.
    gate = tl.where((gate < cut) | ~mask, 0.0, gate)
    if up_ptr is not None:
        gate = times_up(
            gate,
            x_ptr,
            up_ptr,
            up_scales_ptr,
            up_bias_ptr,
            x_stride,
            up_stride,
            neurons,
            T,
            D,
            UP_RELU,
            UP_GROUP,
            BLOCK_T,
            BLOCK_F,
            BLOCK_D,
        )
    tl.store(x1_ptr + tokens.to(tl.int64) * F + neurons[None, :], gate, mask=mask)
