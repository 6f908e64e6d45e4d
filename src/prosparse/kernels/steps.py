# SPDX-License-Identifier: Apache-2.0
"""The paper's two operators by themselves, as PyTorch knows them: steps (2) and (3) of Section 3.3.

For an FFN whose gate is computed elsewhere; `prosparse.kernels.ops.sparse_ffn` is all three steps, and
faster. T tokens, D = d_model, F = d_ff.
"""

from __future__ import annotations

from torch import Tensor

from prosparse.kernels.backend import choose_backend, implementation
from prosparse.kernels.checks import check_count, check_matrix, check_tokens
from prosparse.kernels.registration import operator

__all__ = ["sparse_down", "sparse_up"]


def sparse_up(
    gate_pre: Tensor,
    x: Tensor,
    up_proj: Tensor,
    threshold: float = 0.0,
    weights_ready: bool = False,
) -> Tensor:
    """Step (2), Section 3.3 of ProSparse: x_1 = FATReLU(gate_pre) * (x W_1^T).

    The rows of `up_proj` whose gate is zero for all tokens are not read.

    Args:
        gate_pre: [T, F], x W_s^T before the activation; float32, bfloat16 or float16.
        x: [T, D], 1 <= T <= 16, in the dtype of `gate_pre`.
        up_proj: [F, D], contiguous, in the dtype of `gate_pre`.
        threshold: t >= 0 of FATReLU; 0 is ReLU. Ties are kept.
        weights_ready: The GPU work queued just before does not write `up_proj`, as inside a model; the
            kernel may then be launched while that work still runs.

    Returns:
        x_1 [T, F].

    Raises:
        ValueError: Shapes, dtypes or devices do not go together.
    """
    return _sparse_up(gate_pre, x, up_proj, threshold, weights_ready)


def sparse_down(x1: Tensor, down_projT: Tensor, weights_ready: bool = False) -> Tensor:
    """Step (3), Section 3.3 of ProSparse: y = x_1 W_2^T.

    The rows of `down_projT` whose x_1 is zero for all tokens are not read.

    Args:
        x1: [T, F], 1 <= T <= 16; float32, bfloat16 or float16.
        down_projT: [F, D], contiguous: the transpose of the checkpoint's `down_proj`.
        weights_ready: As in `sparse_up`.

    Returns:
        y [T, D].

    Raises:
        ValueError: Shapes, dtypes or devices do not go together.
    """
    return _sparse_down(x1, down_projT, weights_ready)


def _like_gate(gate_pre: Tensor, x: Tensor, *_arguments: object) -> Tensor:
    return x.new_empty(gate_pre.shape)


def _tokens_of_width(x1: Tensor, down_projT: Tensor, *_arguments: object) -> Tensor:
    return x1.new_empty(x1.shape[0], down_projT.shape[1])


@operator(_like_gate)
def _sparse_up(
    gate_pre: Tensor, x: Tensor, up_proj: Tensor, threshold: float, weights_ready: bool = False
) -> Tensor:
    check_tokens(x, up_proj, None)
    if gate_pre.shape != (len(x), len(up_proj)) or gate_pre.dtype != x.dtype:
        raise ValueError(
            f"gate_pre must be [T, F] = [{len(x)}, {len(up_proj)}] in {x.dtype}; "
            f"found {list(gate_pre.shape)} in {gate_pre.dtype}."
        )
    run, overlap = implementation(x.device).sparse_up, _overlap(x, weights_ready)
    return run(gate_pre.contiguous(), x.contiguous(), up_proj, threshold, **overlap)


@operator(_tokens_of_width)
def _sparse_down(x1: Tensor, down_projT: Tensor, weights_ready: bool = False) -> Tensor:
    if x1.dim() != 2 or down_projT.dim() != 2 or x1.shape[1] != len(down_projT):
        raise ValueError(
            f"x1 must be [T, F] and down_projT [F, D]; found {list(x1.shape)} and "
            f"{list(down_projT.shape)}."
        )
    check_matrix("down_projT", down_projT, None, x1, down_projT.shape)
    check_count(len(x1))
    run, overlap = implementation(x1.device).sparse_down, _overlap(x1, weights_ready)
    return run(x1.contiguous(), down_projT, **overlap)


def _overlap(x: Tensor, weights_ready: bool) -> dict[str, bool]:
    """Only the cuda backend launches kernels beside those before them."""
    return {"weights_ready": weights_ready} if choose_backend(x.device) == "cuda" else {}
