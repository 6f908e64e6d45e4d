# SPDX-License-Identifier: Apache-2.0
"""The FFN behind a predictor, as PyTorch knows it: only rows that it says are needed are read.

Approximate where `sparse_ffn` is exact: that reads all of the gate to know what else to read, this a
predictor in its place, and leaves a neuron out where the predictor errs (Section 3.3 of ProSparse). It
is put together from the operators that every backend has, on a CPU in one call:

    hidden = ReLU(fc1 x)              `gate_up` without an up projection
    logits = fc2 hidden               `sparse_down`: rows of fc2T whose hidden unit is zero are not read
    gate   = W_s x where predicted    `sparse_up`, the prediction in place of a gate
    x_1    = act(gate) * W_1 x        `sparse_up`
    y      = W_2 x_1                  `sparse_down`

Nothing waits for the host, so a step with it can be captured in a CUDA graph.
T tokens, D = d_model, F = d_ff, R = rank of the predictor.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from prosparse.kernels.backend import choose_backend, implementation
from prosparse.kernels.checks import check_matrix, check_tokens
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.reference import activate, rounded
from prosparse.kernels.registration import operator

__all__ = ["predicted_ffn"]


def predicted_ffn(
    x: Tensor,
    weights: FFNWeights,
    fc1: Tensor,
    fc2T: Tensor,
    cut: float = 0.0,
    weights_ready: bool = False,
) -> Tensor:
    """The FFN of the neurons that a predictor says are active.

    Args:
        x: [T, D], 1 <= T <= 16; float32, bfloat16 or float16. Each token has its own prediction.
        weights: The FFN, in the dtype of x; neither quantized nor with biases.
        fc1: The predictor's first layer, [R, D], contiguous, in the dtype of x.
        fc2T: The transpose of its second, [R, F], likewise.
        cut: Neurons with a logit, in the dtype of x, below it are left out.
        weights_ready: As in `prosparse.kernels.ops.sparse_ffn`; the predictor counts among the weights.

    Returns:
        y [T, D] in the dtype of x.

    Raises:
        ValueError: Shapes, dtypes or devices do not go together, or the FFN has biases or is quantized.
    """
    extras = (
        weights.gate_bias, weights.up_bias, weights.down_bias,
        weights.gate_scales, weights.up_scales, weights.down_scales,
    )  # fmt: skip
    if any(extra is not None for extra in extras):
        raise ValueError("predicted_ffn is for an FFN without biases that is not quantized.")
    return _predicted_ffn(
        x,
        fc1,
        fc2T,
        weights.gate_proj,
        weights.up_proj,
        weights.down_projT,
        cut,
        weights.threshold,
        weights.shift,
        weights.up_relu,
        weights_ready,
    )


def _like_x(x: Tensor, *_arguments: object) -> Tensor:
    return x.new_empty(x.shape)


@operator(_like_x)
def _predicted_ffn(
    x: Tensor,
    fc1: Tensor,
    fc2T: Tensor,
    gate_proj: Tensor,
    up_proj: Tensor | None,
    down_projT: Tensor,
    cut: float,
    threshold: float,
    shift: float,
    up_relu: bool,
    weights_ready: bool,
) -> Tensor:
    check_tokens(x, gate_proj, None)
    F, D = gate_proj.shape
    check_matrix("fc1", fc1, None, x, torch.Size((len(fc1), D)))
    check_matrix("fc2T", fc2T, None, x, torch.Size((len(fc1), F)))
    if up_proj is not None:
        check_matrix("up_proj", up_proj, None, x, gate_proj.shape)
    check_matrix("down_projT", down_projT, None, x, gate_proj.shape)
    backend, x = implementation(x.device), x.contiguous()
    weights = FFNWeights(
        gate_proj, up_proj, down_projT, threshold=threshold, shift=shift, up_relu=up_relu
    )
    name = choose_backend(x.device)
    if name in ("cpu", "reference"):
        return backend.predicted_ffn(x, weights, fc1, fc2T, cut)
    ready = {"weights_ready": weights_ready} if name == "cuda" else {}
    return put_together(backend, x, weights, fc1, fc2T, cut, ready)


def put_together(
    backend: ModuleType,
    x: Tensor,
    weights: FFNWeights,
    fc1: Tensor,
    fc2T: Tensor,
    cut: float,
    options: dict[str, bool],
) -> Tensor:
    """The same from the operators of a backend, each called with `options`."""
    hidden = backend.gate_up(x, FFNWeights(fc1, None, fc1), **options)
    logits = backend.sparse_down(hidden, fc2T, **options)
    # NaN is predicted active, so that it stays NaN
    predicted = (logits < rounded(cut, x.dtype)).logical_not().to(x.dtype)
    gate = backend.sparse_up(predicted, x, weights.gate_proj, 0.0, **options)
    threshold = weights.threshold
    if weights.shift:
        gate, threshold = activate(gate, 0.0, weights.shift), 0.0
    if weights.up_proj is None:
        x1 = activate(gate, threshold)
    else:
        x1 = backend.sparse_up(gate, x, weights.up_proj, threshold, **options)
    if weights.up_relu:  # act(gate) >= 0, so the sign of x_1 is that of up
        x1 = activate(x1, 0.0)
    return backend.sparse_down(x1, weights.down_projT, **options)
