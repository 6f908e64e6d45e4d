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
from prosparse.kernels.projections import checked_projection
from prosparse.kernels.registration import operator

__all__ = ["MAX_TOGETHER", "linear", "linears", "quantized_linear"]

MAX_TOGETHER = 3
"""Projections of one launch: query, key and value."""


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
    return _linears(x, weights, [None] * len(weights), biases, weights_ready)


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
    return _linears(x, [values], [scales], [bias], weights_ready)[0]


def _outputs(x: Tensor, weights: Sequence[Tensor], *_arguments: object) -> list[Tensor]:
    return [x.new_empty(x.shape[0], weight.shape[0]) for weight in weights]


@operator(_outputs)
def _linears(
    x: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    weights_ready: bool,
) -> list[Tensor]:
    chosen, backend, x = choose_backend(x.device), implementation(x.device), x.contiguous()
    if chosen == "cpu":
        return backend.linears(x, weights, scales, biases)
    projections = [
        checked_projection(x, *parts) for parts in zip(weights, scales, biases, strict=True)
    ]
    if chosen == "cuda" and all(scale is None for scale in scales):
        return backend.linears(x, projections, weights_ready)
    ready = {"weights_ready": weights_ready} if chosen == "cuda" else {}
    return [backend.gate_up(x, projection, **ready) for projection in projections]
