# SPDX-License-Identifier: Apache-2.0
"""Dense projections of a few tokens, as PyTorch knows them: their time is that of reading weights.

Attention's projections and the head of a sparse model are dense, and at decode they are most of what
is left to read. A warp takes each row, as it does the gate's; projections of one input share a launch.
T tokens, D inputs, F outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prosparse.kernels.backend import choose_backend, implementation
from prosparse.kernels.checks import check_biases, check_tokens
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.registration import operator

__all__ = ["MAX_TOGETHER", "linear", "linears", "quantized_linear"]

MAX_TOGETHER = 3
"""Projections of one launch: query, key and value."""
ALL_PASS = float("-inf")
"""A threshold that no output is below: steps (1) and (2) of an FFN are then a plain projection."""


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, weights_ready: bool = False
) -> Tensor:
    """Return x W^T + bias, summed in float32 and rounded once.

    Args:
        x: [T, D], 1 <= T <= 16; float32, bfloat16 or float16.
        weight: [F, D], contiguous, in the dtype of x.
        bias: [F], in the dtype of x.
        weights_ready: The GPU work queued just before does not write `weight`, as inside a model; the
            kernel may then be launched while that work still runs.

    Returns:
        y [T, F] in the dtype of x.

    Raises:
        ValueError: Shapes, dtypes or devices do not go together.
    """
    return linears(x, [weight], [bias], weights_ready)[0]


def linears(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    weights_ready: bool = False,
) -> list[Tensor]:
    """Return `linear` of one input for each of several weights, up to three in one launch."""
    return _linears(x, weights, biases, weights_ready)


def quantized_linear(
    x: Tensor,
    values: Tensor,
    scales: Tensor,
    bias: Tensor | None = None,
    weights_ready: bool = False,
) -> Tensor:
    """Return x W^T + bias of a weight in 8 or 4 bits, summed in float32 and rounded once.

    Args:
        x: [T, D], 1 <= T <= 16; float32, bfloat16 or float16.
        values: int8 [F, D], or uint8 [F, D / 2] for 4 bits (`prosparse.kernels.quantize`).
        scales: float16 [F, groups].
        bias: [F], in the dtype of x.
        weights_ready: As for `linear`.

    Returns:
        y [T, F] in the dtype of x.

    Raises:
        ValueError: Shapes, dtypes or devices do not go together.
    """
    return _quantized_linear(x, values, scales, bias, weights_ready)


def _quantized_output(x: Tensor, values: Tensor, *_arguments: object) -> Tensor:
    return x.new_empty(x.shape[0], values.shape[0])


@operator(_quantized_output)
def _quantized_linear(
    x: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None, weights_ready: bool
) -> Tensor:
    check_tokens(x, values, scales)
    projection = FFNWeights(
        values, None, values, scales, None, scales, gate_bias=bias, threshold=ALL_PASS
    )
    check_biases(projection, x)
    backend = implementation(x.device)
    ready = {"weights_ready": weights_ready} if choose_backend(x.device) == "cuda" else {}
    return backend.gate_up(x.contiguous(), projection, **ready)


def _outputs(x: Tensor, weights: Sequence[Tensor], *_arguments: object) -> list[Tensor]:
    return [x.new_empty(x.shape[0], weight.shape[0]) for weight in weights]


@operator(_outputs)
def _linears(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    weights_ready: bool,
) -> list[Tensor]:
    projections = []
    for weight, bias in zip(weights, biases, strict=True):
        check_tokens(x, weight, None)
        projections.append(FFNWeights(weight, None, weight, gate_bias=bias, threshold=ALL_PASS))
        check_biases(projections[-1], x)
    backend, x = implementation(x.device), x.contiguous()
    if choose_backend(x.device) == "cuda":
        return backend.linears(x, projections, weights_ready)
    return [backend.gate_up(x, projection) for projection in projections]
