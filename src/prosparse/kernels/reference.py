# SPDX-License-Identifier: Apache-2.0
"""What every operator must compute, in plain PyTorch: the judge of all other backends.

Products are summed in float32 and rounded to the dtype of the activations where a transformers
model rounds: after each projection and after act(gate) * up. A neuron is active for a token when
act(gate) is not zero (NaN is not zero). A neuron that is active for no token is not read: its
weights cannot reach the output, whatever they hold. T tokens, D = d_model, F = d_ff.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.quantize import dequantize


def activate(pre: Tensor, threshold: float, shift: float = 0.0) -> Tensor:
    """Return FATReLU(pre - shift), of the shape and dtype of `pre`; ties are kept (Eq. 3)."""
    if shift:
        pre = (pre.float() - shift).to(pre.dtype)
    return pre.masked_fill(pre < rounded(threshold, pre.dtype), 0)


def sparse_up(gate_pre: Tensor, x: Tensor, up_proj: Tensor, threshold: float = 0.0) -> Tensor:
    """Step (2), Section 3.3: x_1 = FATReLU(gate_pre) * (x W_1^T), zero where FATReLU is zero.

    Args:
        gate_pre: [T, F], the gate before its activation.
        x: [T, D].
        up_proj: [F, D].
        threshold: t of FATReLU.

    Returns:
        x_1 [T, F] in the dtype of x.
    """
    return _times_up(activate(gate_pre, threshold), x, FFNWeights(up_proj, up_proj, up_proj))


def sparse_down(x1: Tensor, down_projT: Tensor) -> Tensor:
    """Step (3), Section 3.3: y = x_1 W_2^T over the active neurons only.

    Args:
        x1: [T, F], zero where a neuron is inactive.
        down_projT: [F, D].

    Returns:
        y [T, D] in the dtype of x1.
    """
    return _down(x1, down_projT).to(x1.dtype)


def gate_up(x: Tensor, weights: FFNWeights) -> Tensor:
    """Steps (1) and (2): the intermediate x_1 [T, F] of x [T, D], in the dtype of x."""
    gate_pre = _linear(x, weights.gate_proj, weights.gate_scales, weights.gate_bias)
    gate = activate(gate_pre, weights.threshold, weights.shift)
    return gate if weights.up_proj is None else _times_up(gate, x, weights)


def sparse_ffn(
    x: Tensor,
    weights: FFNWeights,
    residual: Tensor | None = None,
    float32_output: bool = False,
) -> Tensor:
    """The whole FFN of x [T, D]: y [T, D], plus `residual` [T, D] if given.

    The sum is float32 until the end: the output is rounded once, to the dtype of x, or not at all
    with `float32_output`.
    """
    down = dequantize(weights.down_projT, weights.down_scales)
    y = _down(gate_up(x, weights), down)
    if weights.down_bias is not None:
        y = y + weights.down_bias.float()
    if residual is not None:
        y = y + residual.float()
    return y if float32_output else y.to(x.dtype)


def predicted_ffn(x: Tensor, weights: FFNWeights, fc1: Tensor, fc2T: Tensor, cut: float) -> Tensor:
    """The FFN of the neurons that a predictor says are active, y [T, D]; see `kernels.predicted`.

    Args:
        x: [T, D].
        weights: The FFN, without biases and not quantized.
        fc1: [R, D].
        fc2T: [R, F].
        cut: Neurons with a logit below are left out.
    """
    hidden = activate(_linear(x, fc1, None, None), 0.0)
    logits = (hidden.float() @ fc2T.float()).to(x.dtype)
    x1 = gate_up(x, weights)
    return sparse_down(x1.masked_fill(logits < rounded(cut, x.dtype), 0), weights.down_projT)


def reglu(
    gate_pre: Tensor, up: Tensor, mask_T: Tensor | None, threshold: float | None, shift: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The intermediate of training, x_1 = act(gate_pre) * up, and what Equation 2 needs of it.

    Args:
        gate_pre: [T, F], the gate before its activation.
        up: [T, F].
        mask_T: bool [T], false where a token is padding; None when none is.
        threshold: t of FATReLU; None is ReLU, which differs in its derivative at 0 only.
        shift: b of shifted ReLU, subtracted first.

    Returns:
        x_1 [T, F] in the dtype of `up`, and of the real tokens ||x_1||_1 (float32) and the number
        of non-zero entries (int64).
    """
    x1 = activate(gate_pre, threshold or 0.0, shift) * up
    real = x1 if mask_T is None else x1.masked_fill(~mask_T[:, None], 0)
    return x1, real.abs().sum(dtype=torch.float32), real.count_nonzero()


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
    """Write the gradients of `reglu` into `d_gate` and `d_up`, rounded once from float32.

    Each may be the memory of `gate_pre`, `up` or `grad_x1`. The L1 norm adds its gradient times
    sign(x_1) to `grad_x1` [T, F].
    """
    cut = threshold or 0.0
    gate = activate(gate_pre, cut, shift)
    signs = (gate * up).sign().float()
    if mask_T is not None:
        signs = signs.masked_fill(~mask_T[:, None], 0)
    grad = grad_x1.float() + grad_l1 * signs
    # NaN passes its gradient on, as torch's own activations do.
    is_flat = gate == 0 if threshold is None else gate_pre < rounded(cut, gate_pre.dtype)
    to_gate = (grad * up.float()).masked_fill(is_flat, 0)
    to_up = grad * gate.float()
    d_gate.copy_(to_gate)
    d_up.copy_(to_up)


def count_active(x1_TF: Tensor) -> Tensor:
    """Return the active neurons of each token, int32 [T]."""
    return (x1_TF != 0).sum(-1, dtype=torch.int32)  # int32 sums several times faster than int64


def count_activity(x1_BSF: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return active neurons by token and shared with the next one, tokens by neuron, and spans.

    int32 [B, S], [B, S-1] and [F], and int64 [6]: the neurons in the unions of 1, 2, 4, 8, 16 and 32
    consecutive tokens, summed over the groups that a window is cut into, its rest left out.
    """
    mask_BSF = x1_BSF != 0
    with_next = (mask_BSF[:, 1:] & mask_BSF[:, :-1]).sum(-1, dtype=torch.int32)
    by_neuron = mask_BSF.flatten(0, 1).sum(0, dtype=torch.int32)
    by_token = mask_BSF.sum(-1, dtype=torch.int32)
    spans, union_BGF = [by_token.sum()], mask_BSF
    for _ in range(5):  # a union of a group is that of two groups half as large
        even = union_BGF.shape[1] // 2 * 2
        union_BGF = union_BGF[:, 0:even:2] | union_BGF[:, 1:even:2]
        spans.append(union_BGF.sum(-1, dtype=torch.int32).sum())
    return by_token, with_next, by_neuron, torch.stack(spans)


def sample_activity(x1_BSF: Tensor, places_P: Tensor) -> tuple[Tensor, Tensor]:
    """Return which entries are active at `places_P`, bool [B, P, F], and how many by exponent.

    The latter, int64 [256], is read off the bits of a float32: below 2^-126 it is 0, for infinity
    and NaN 255.
    """
    x1_BPF = x1_BSF[:, places_P]
    mask_BPF = x1_BPF != 0
    bits = x1_BPF.float().view(torch.int32)
    by_exponent = torch.bincount(((bits >> 23) & 0xFF).flatten(), minlength=256)
    by_exponent[0] -= (~mask_BPF).sum()
    return mask_BPF, by_exponent


def rounded(threshold: float, dtype: torch.dtype) -> float:
    """Return a threshold as a dtype has it."""
    return torch.tensor(threshold, dtype=dtype, device="cpu").item()


def _times_up(gate: Tensor, x: Tensor, weights: FFNWeights) -> Tensor:
    assert weights.up_proj is not None
    up = _linear(x, weights.up_proj, weights.up_scales, weights.up_bias)
    if weights.up_relu:
        up = up.masked_fill(up < 0, 0)
    return (gate * up).masked_fill(gate == 0, 0)


def _linear(x: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None) -> Tensor:
    y = x.float() @ dequantize(weight, scales).float().T
    return (y if bias is None else y + bias.float()).to(x.dtype)


def _down(x1: Tensor, down_projT: Tensor) -> Tensor:
    """Return y in float32; the rows of neurons that no token needs are kept out of the product."""
    unused = (x1 == 0).all(dim=0)
    return x1.float() @ down_projT.float().masked_fill(unused[:, None], 0)
