# SPDX-License-Identifier: Apache-2.0
"""The operators, as PyTorch knows them: traceable, capturable in a CUDA graph, without backward.

They answer for 1 to MAX_TOKENS tokens: beyond that nearly every neuron is active for some token and
a dense product is faster. What they compute is written in `prosparse.kernels.reference`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prosparse.kernels.backend import choose_backend, implementation
from prosparse.kernels.checks import (
    MAX_TOKENS,
    check_matrix,
    checked_ffn,
    checked_residual,
)
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.registration import operator
from prosparse.kernels.screen import Screen
from prosparse.kernels.steps import sparse_down, sparse_up

__all__ = ["MAX_TOKENS", "screened_ffn", "sparse_down", "sparse_ffn", "sparse_up"]


def sparse_ffn(
    x: Tensor,
    weights: FFNWeights,
    residual: Tensor | None = None,
    float32_output: bool = False,
    weights_ready: bool = False,
) -> Tensor:
    """The whole FFN, steps (1) to (3): exact, and reads the rows of active neurons only.

    Args:
        x: [T, D], 1 <= T <= 16; float32, bfloat16 or float16.
        weights: The FFN; dense matrices in the dtype of x.
        residual: [T, D] to add before the one rounding at the end; float32 or the dtype of x.
        float32_output: Return the float32 sum, not rounded to the dtype of x.
        weights_ready: The GPU work queued just before does not write the weights, as inside a model;
            on a GPU their first rows are then fetched while that work still runs.

    Returns:
        y [T, D].

    Raises:
        ValueError: Shapes, dtypes or devices do not go together.
    """
    return _sparse_ffn(
        x,
        weights.gate_proj,
        weights.up_proj,
        weights.down_projT,
        weights.gate_scales,
        weights.up_scales,
        weights.down_scales,
        weights.gate_bias,
        weights.up_bias,
        weights.down_bias,
        residual,
        weights.threshold,
        weights.shift,
        weights.up_relu,
        weights_ready,
        float32_output,
    )


def screened_ffn(
    x: Tensor,
    weights: FFNWeights,
    screen: Screen,
    residual: Tensor | None = None,
    float32_output: bool = False,
    weights_ready: bool = False,
) -> Tensor:
    """The same FFN, the gate's own rows read only where its int8 copy cannot rule a neuron out.

    The result is that of `sparse_ffn`, exactly: the screen's error is bounded, not estimated. The
    triton and reference backends have no use for the screen and read the gate as it is.

    Args:
        x: [T, D], 1 <= T <= 16, D a multiple of 64.
        weights: The FFN; its gate is not quantized and its activation not shifted.
        screen: `prosparse.kernels.screen.make_screen(weights.gate_proj)`.
        residual: [T, D] to add before the one rounding at the end; float32 or the dtype of x.
        float32_output: Return the float32 sum, not rounded to the dtype of x.
        weights_ready: As in `sparse_ffn`; the screen counts among the weights.

    Raises:
        ValueError: Shapes, dtypes or devices do not go together.
    """
    if weights.gate_scales is not None or weights.shift:
        raise ValueError("A screen is for an FFN with unquantized gate and no shift.")
    return _screened_ffn(
        x,
        weights.gate_proj,
        weights.up_proj,
        weights.down_projT,
        screen.values,
        screen.scales,
        screen.bound,
        weights.up_scales,
        weights.down_scales,
        weights.gate_bias,
        weights.up_bias,
        weights.down_bias,
        residual,
        weights.threshold,
        weights.up_relu,
        weights_ready,
        float32_output,
    )


def _like_x(x: Tensor, *arguments: object) -> Tensor:
    float32_output = arguments[-1]
    return x.new_empty(x.shape, dtype=torch.float32 if float32_output else x.dtype)


@operator(_like_x)
def _sparse_ffn(
    x: Tensor,
    gate_proj: Tensor,
    up_proj: Tensor | None,
    down_projT: Tensor,
    gate_scales: Tensor | None,
    up_scales: Tensor | None,
    down_scales: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    residual: Tensor | None,
    threshold: float,
    shift: float,
    up_relu: bool,
    weights_ready: bool,
    float32_output: bool,
) -> Tensor:
    parts = (
        gate_proj,
        up_proj,
        down_projT,
        gate_scales,
        up_scales,
        down_scales,
        gate_bias,
        up_bias,
        down_bias,
        threshold,
        shift,
        up_relu,
    )
    chosen, backend = choose_backend(x.device), implementation(x.device)
    residual, x = checked_residual(residual, x), x.contiguous()
    if chosen == "cpu":  # checks what it has not seen before
        return backend.sparse_ffn_of(x, parts, residual, float32_output)
    weights = checked_ffn(x, parts)
    ready = (weights_ready,) if chosen == "cuda" else ()
    return backend.sparse_ffn(x, weights, residual, float32_output, *ready)


@operator(_like_x)
def _screened_ffn(
    x: Tensor,
    gate_proj: Tensor,
    up_proj: Tensor | None,
    down_projT: Tensor,
    screen_values: Tensor,
    screen_scales: Tensor,
    screen_bound: Tensor,
    up_scales: Tensor | None,
    down_scales: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    residual: Tensor | None,
    threshold: float,
    up_relu: bool,
    weights_ready: bool,
    float32_output: bool,
) -> Tensor:
    parts = (
        gate_proj,
        up_proj,
        down_projT,
        None,
        up_scales,
        down_scales,
        gate_bias,
        up_bias,
        down_bias,
        threshold,
        0.0,
        up_relu,
    )
    weights = checked_ffn(x, parts)
    shape = torch.Size((len(gate_proj), x.shape[1]))
    check_matrix("the screen", screen_values, screen_scales, x, shape)
    residual = checked_residual(residual, x)
    backend = implementation(x.device)
    if choose_backend(x.device) != "cuda":
        return backend.sparse_ffn(x.contiguous(), weights, residual, float32_output)
    screen = Screen(screen_values, screen_scales, screen_bound)
    return backend.screened_ffn(
        x.contiguous(), weights, screen, residual, float32_output, weights_ready
    )
