# SPDX-License-Identifier: Apache-2.0
"""The intermediate of training, its L1 norm and its active entries: one pass forward, one backward.

A program works on one token. It sums its row in a fixed order, and one more program of a few
microseconds adds up the tokens in theirs. All is bound by memory: three passes over T x F forward,
five backward.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prosparse.kernels.triton.launch import cut_of, launch, with_rows
from prosparse.kernels.triton.projection import round_to

BLOCK_F = {"BLOCK_F": 1024, "num_warps": 4}
"""Neurons that a program has in hand at once: 16 bytes of 16-bit values for each of its threads."""

BLOCK_T = {"BLOCK_T": 8192, "num_warps": 16}
"""Tokens that the closing sum has in hand at once."""


def reglu(
    gate_pre: Tensor, up: Tensor, mask_T: Tensor | None, threshold: float | None, shift: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x_1 [T, F] of gate_pre and up [T, F], its L1 norm and its active entries."""
    (T, F), device = up.shape, up.device
    gate_pre, up = with_rows(gate_pre), with_rows(up)
    x1 = torch.empty((T, F), dtype=up.dtype, device=device)
    l1_T = torch.empty(T, dtype=torch.float32, device=device)
    active_T = torch.empty(T, dtype=torch.int32, device=device)
    launch(
        reglu_kernel,
        (T,),
        gate_pre,
        up,
        mask_T,
        x1,
        l1_T,
        active_T,
        gate_pre.stride(0),
        up.stride(0),
        cut_of(threshold or 0.0, up.dtype),
        shift,
        F,
        **BLOCK_F,
    )
    l1 = torch.empty(1, dtype=torch.float32, device=device)
    num_active = torch.empty(1, dtype=torch.int64, device=device)
    # A power of two, so that few numbers of tokens have a kernel of their own.
    covered = 1 << (max(T, BLOCK_T["BLOCK_T"]) - 1).bit_length()
    launch(sum_tokens_kernel, (1,), l1_T, active_T, l1, num_active, T, covered, **BLOCK_T)
    return x1, l1[0], num_active[0]


def reglu_backward(
    grad_x1: Tensor,
    grad_l1: Tensor,
    gate_pre: Tensor,
    up: Tensor,
    mask_T: Tensor | None,
    threshold: float | None,
    shift: float,
    d_gate: Tensor,
    d_up: Tensor,
) -> None:
    """Write the gradients of `reglu`, each possibly into the memory of an input."""
    T, F = up.shape
    grad_x1, gate_pre, up = with_rows(grad_x1), with_rows(gate_pre), with_rows(up)
    launch(
        reglu_backward_kernel,
        (T,),
        grad_x1,
        grad_l1.reshape(1),
        gate_pre,
        up,
        mask_T,
        d_gate,
        d_up,
        grad_x1.stride(0),
        gate_pre.stride(0),
        up.stride(0),
        d_gate.stride(0),
        d_up.stride(0),
        cut_of(threshold or 0.0, up.dtype),
        shift,
        F,
        threshold is None,
        **BLOCK_F,
    )


@triton.jit
def reglu_kernel(
    gate_ptr,
    up_ptr,
    mask_ptr,
    x1_ptr,
    l1_ptr,
    active_ptr,
    gate_stride,
    up_stride,
    cut,
    shift,
    F: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Write x1 [F] of one token, and its sums: both zero where it is padding."""
    token = tl.program_id(0).to(tl.int64)
    l1 = tl.zeros([BLOCK_F], tl.float32)
    active = tl.zeros([BLOCK_F], tl.int32)
    for first in range(0, F, BLOCK_F):
        neurons = first + tl.arange(0, BLOCK_F)
        inside = neurons < F
        pre = tl.load(gate_ptr + token * gate_stride + neurons, mask=inside, other=0)
        up = tl.load(up_ptr + token * up_stride + neurons, mask=inside, other=0).to(tl.float32)
        gate = activate(pre.to(tl.float32), cut, shift, x1_ptr.dtype.element_ty)
        x1 = round_to(gate * up, x1_ptr.dtype.element_ty)
        tl.store(x1_ptr + token * F + neurons, x1, mask=inside)
        l1 += tl.abs(x1)
        active += (x1 != 0).to(tl.int32)
    l1, active = tl.sum(l1, axis=0), tl.sum(active, axis=0)
    if mask_ptr is not None:
        is_real = tl.load(mask_ptr + token) != 0
        l1, active = tl.where(is_real, l1, 0.0), tl.where(is_real, active, 0)
    tl.store(l1_ptr + token, l1)
    tl.store(active_ptr + token, active)


@triton.jit
def sum_tokens_kernel(
    l1_T_ptr,
    active_T_ptr,
    l1_ptr,
    active_ptr,
    T,
    COVERED: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Write the sums over all tokens, of which there are at most COVERED."""
    l1 = tl.zeros([BLOCK_T], tl.float32)
    active = tl.zeros([BLOCK_T], tl.int64)
    for first in range(0, COVERED, BLOCK_T):
        tokens = first + tl.arange(0, BLOCK_T)
        l1 += tl.load(l1_T_ptr + tokens, mask=tokens < T, other=0)
        active += tl.load(active_T_ptr + tokens, mask=tokens < T, other=0).to(tl.int64)
    tl.store(l1_ptr, tl.sum(l1, axis=0))
    tl.store(active_ptr, tl.sum(active, axis=0))


@triton.jit
def reglu_backward_kernel(
    grad_x1_ptr,
    grad_l1_ptr,
    gate_ptr,
    up_ptr,
    mask_ptr,
    d_gate_ptr,
    d_up_ptr,
    grad_x1_stride,
    gate_stride,
    up_stride,
    d_gate_stride,
    d_up_stride,
    cut,
    shift,
    F: tl.constexpr,
    IS_RELU: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Write d_gate and d_up [F] of one token; every entry is read before it is written."""
    token = tl.program_id(0).to(tl.int64)
    dtype: tl.constexpr = gate_ptr.dtype.element_ty
    grad_l1 = tl.load(grad_l1_ptr)
    if mask_ptr is not None:
        grad_l1 = tl.where(tl.load(mask_ptr + token) != 0, grad_l1, 0.0)
    for first in range(0, F, BLOCK_F):
        neurons = first + tl.arange(0, BLOCK_F)
        inside = neurons < F
        pre = tl.load(gate_ptr + token * gate_stride + neurons, mask=inside, other=0)
        up = tl.load(up_ptr + token * up_stride + neurons, mask=inside, other=0).to(tl.float32)
        grad = tl.load(grad_x1_ptr + token * grad_x1_stride + neurons, mask=inside, other=0)
        pre = pre.to(tl.float32)
        gate = activate(pre, cut, shift, dtype)
        x1 = round_to(gate * up, dtype)
        grad = grad.to(tl.float32) + tl.where(x1 > 0, grad_l1, tl.where(x1 < 0, -grad_l1, 0.0))
        # ReLU has no slope at 0, FATReLU has one at its threshold.
        is_flat = gate == 0 if IS_RELU else pre < cut
        to_gate = round_to(tl.where(is_flat, 0.0, grad * up), dtype)
        tl.store(d_gate_ptr + token * d_gate_stride + neurons, to_gate, mask=inside)
        to_up = round_to(grad * gate, dtype)
        tl.store(d_up_ptr + token * d_up_stride + neurons, to_up, mask=inside)


@triton.jit
def activate(pre, cut, shift, dtype: tl.constexpr):
    """Return FATReLU(pre - shift) of float32 values that `dtype` has."""
    gate = round_to(pre - shift, dtype)
    return tl.where(gate < cut, 0.0, gate)
