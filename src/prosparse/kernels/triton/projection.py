# SPDX-License-Identifier: Apache-2.0
"""What the kernels share: rounding, rows of weights, and the projection of a block of neurons."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def round_to(values, dtype: tl.constexpr):
    """Return float32 `values` rounded to `dtype`, still as float32."""
    if dtype == tl.bfloat16:
        # To nearest even by hand, since Triton's interpreter truncates.
        bits = values.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        rounded = bits.to(tl.float32, bitcast=True)
        rounded = tl.where(values == values, rounded, values)  # NaN stays NaN
    else:
        rounded = values.to(dtype).to(tl.float32)
    return rounded


@triton.jit
def any_of(flags, axis: tl.constexpr):
    """Return whether any of `flags` is set along `axis`."""
    return tl.max(flags.to(tl.int32), axis=axis) != 0


@triton.jit
def load_rows(
    weight_ptr,
    scales_ptr,
    row_stride,
    neurons,
    needed,
    first_column,
    D: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return weights [neurons, BLOCK_D] from `first_column` on in float32, zero where not `needed`.

    GROUP is the group size of quantized weights, else 0. The columns are in one group: BLOCK_D
    divides it. The layouts are those of `prosparse.kernels.quantize`.
    """
    # In bytes for 4 bits, which hold two columns each, else in values.
    packing: tl.constexpr = tl.constexpr(2 if weight_ptr.dtype.element_ty == tl.uint8 else 1)
    rows = neurons.to(tl.int64)[:, None]
    cells = first_column // packing + tl.arange(0, BLOCK_D // packing)[None, :]
    stored = tl.load(
        weight_ptr + rows * row_stride + cells,
        mask=needed[:, None] & (cells < D // packing),
        other=0,
    )
    if packing == 2:
        stored = unpack_fours(stored, neurons.shape[0], BLOCK_D)
    weights = stored.to(tl.float32)
    if GROUP != 0:
        scale_ptrs = scales_ptr + rows * (D // GROUP) + first_column // GROUP
        scales = tl.load(scale_ptrs, mask=needed[:, None], other=0)
        weights *= scales.to(tl.float32)
    return weights


@triton.jit
def unpack_fours(stored, num_rows: tl.constexpr, num_columns: tl.constexpr):
    """Return the values [rows, columns] of bytes [rows, columns / 2]: [..., 2, 4] in halves."""
    halves = tl.join(stored & 15, stored >> 4)
    words = tl.reshape(halves, [num_rows, num_columns // 8, 4, 2])
    return tl.reshape(tl.permute(words, 0, 1, 3, 2), [num_rows, num_columns]).to(tl.int8) - 8


@triton.jit
def project(
    x_ptr,
    weight_ptr,
    scales_ptr,
    bias_ptr,
    x_stride,
    row_stride,
    neurons,
    needed,
    T,
    D: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return x W^T + bias, [tokens, neurons], rounded to the dtype of x; only `needed` rows count.

    Tokens from T on, and neurons not needed, hold no meaning.
    """
    tokens = tl.arange(0, BLOCK_T)[:, None]
    products = tl.zeros([BLOCK_T, BLOCK_F, BLOCK_D], tl.float32)
    for first_column in range(0, D, BLOCK_D):
        columns = first_column + tl.arange(0, BLOCK_D)[None, :]
        x = tl.load(
            x_ptr + tokens.to(tl.int64) * x_stride + columns,
            mask=(tokens < T) & (columns < D),
            other=0,
        ).to(tl.float32)
        weights = load_rows(
            weight_ptr, scales_ptr, row_stride, neurons, needed, first_column, D, GROUP, BLOCK_D
        )
        products += x[:, None, :] * weights[None, :, :]
    y = tl.sum(products, axis=2)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + neurons, mask=needed, other=0)
        y += bias.to(tl.float32)[None, :]
    return round_to(y, x_ptr.dtype.element_ty)


@triton.jit
def times_up(
    gate,
    x_ptr,
    up_ptr,
    scales_ptr,
    bias_ptr,
    x_stride,
    row_stride,
    neurons,
    T,
    D: tl.constexpr,
    UP_RELU: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return gate * up [tokens, neurons], zero where `gate` is; reads the rows of active neurons."""
    active = any_of(gate != 0, axis=0)
    x1 = tl.zeros([BLOCK_T, BLOCK_F], tl.float32)
    if any_of(active, axis=0):
        up = project(
            x_ptr,
            up_ptr,
            scales_ptr,
            bias_ptr,
            x_stride,
            row_stride,
            neurons,
            active,
            T,
            D,
            GROUP,
            BLOCK_T,
            BLOCK_F,
            BLOCK_D,
        )
        if UP_RELU:
            up = tl.where(up < 0, 0.0, up)
        x1 = tl.where(gate == 0, 0.0, round_to(gate * up, x_ptr.dtype.element_ty))
    return x1
