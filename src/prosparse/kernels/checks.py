# SPDX-License-Identifier: Apache-2.0
"""What the operators demand of their arguments: a wrong shape must not become a wrong address."""

from __future__ import annotations

import torch
from torch import Tensor

from prosparse.kernels.ffn_weights import FFNWeights

MAX_TOKENS = 16


def checked_residual(residual: Tensor | None, x: Tensor) -> Tensor | None:
    """Return the residual, contiguous; raise unless it goes with x [T, D]."""
    if residual is None:
        return None
    if residual.shape != x.shape or residual.dtype not in (torch.float32, x.dtype):
        raise ValueError(
            f"residual must be {list(x.shape)} in float32 or {x.dtype}; found "
            f"{list(residual.shape)} in {residual.dtype}."
        )
    return residual.contiguous()


def check_tokens(x: Tensor, matrix: Tensor, scales: Tensor | None) -> None:
    """Raise unless x is [T, D] and `matrix` [F, D] belongs to it."""
    if x.dim() != 2:
        raise ValueError(f"x must be [T, D]; found {list(x.shape)}.")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"x must be float32, bfloat16 or float16; found {x.dtype}.")
    check_count(len(x))
    check_matrix("the matrix", matrix, scales, x, torch.Size((len(matrix), x.shape[1])))


def check_count(tokens: int) -> None:
    """Raise unless the operators take so many tokens."""
    if not 1 <= tokens <= MAX_TOKENS:
        raise ValueError(f"The sparse operators take 1 to {MAX_TOKENS} tokens; found {tokens}.")


def check_matrix(
    name: str, matrix: Tensor, scales: Tensor | None, x: Tensor, shape: torch.Size
) -> None:
    """Raise unless a matrix is `shape` [F, D] in the dtype of x, or quantized, one neuron a row."""
    rows, width = shape
    if scales is None:
        wanted, dtype = (rows, width), x.dtype
    else:
        wanted = (rows, width // 2 if matrix.dtype == torch.uint8 else width)
        dtype = torch.uint8 if matrix.dtype == torch.uint8 else torch.int8
    if tuple(matrix.shape) != wanted or matrix.dtype != dtype:
        raise ValueError(
            f"{name} must be {list(wanted)} in {dtype} for x {list(x.shape)}; "
            f"found {list(matrix.shape)} in {matrix.dtype}."
        )
    if not matrix.is_contiguous() or (scales is not None and not scales.is_contiguous()):
        raise ValueError(f"{name} and its scales must be contiguous: one neuron, one row.")
    if scales is not None and (
        scales.dtype != torch.float16 or len(scales) != rows or width % scales.shape[1]
    ):
        raise ValueError(
            f"The scales of {name} must be float16 [{rows}, groups of {width}]; found "
            f"{list(scales.shape)} in {scales.dtype}."
        )
    if matrix.device != x.device:
        raise ValueError(f"{name} is on {matrix.device}, x on {x.device}.")


def checked_ffn(x: Tensor, parts: tuple) -> FFNWeights:
    """Return the weights that the fields of an `FFNWeights` make; raise unless all go with x [T, D]."""
    weights = FFNWeights(*parts)
    check_tokens(x, weights.gate_proj, weights.gate_scales)
    shape = torch.Size((len(weights.gate_proj), x.shape[1]))
    if weights.up_proj is not None:
        check_matrix("up_proj", weights.up_proj, weights.up_scales, x, shape)
    check_matrix("down_projT", weights.down_projT, weights.down_scales, x, shape)
    check_biases(weights, x)
    return weights


def check_biases(weights: FFNWeights, x: Tensor) -> None:
    """Raise unless the biases are vectors of the FFN's widths in the dtype of x."""
    rows = len(weights.gate_proj)
    for name, bias, length in (
        ("gate_bias", weights.gate_bias, rows),
        ("up_bias", weights.up_bias, rows),
        ("down_bias", weights.down_bias, x.shape[1]),
    ):
        if bias is not None and (
            bias.shape != (length,)
            or bias.dtype != x.dtype
            or bias.device != x.device
            or not bias.is_contiguous()
        ):
            raise ValueError(
                f"{name} must be [{length}] in {x.dtype}, contiguous, on {x.device}; found "
                f"{list(bias.shape)} in {bias.dtype} on {bias.device}."
            )
