# SPDX-License-Identifier: Apache-2.0
"""The intermediate of an FFN in training, with the L1 norm and the count that Equation 2 asks for.

One pass forward reads the two pre-activations and writes x_1 = act(gate_pre) * up; the norm and the
count of its non-zeros are summed on the way. One pass backward computes the activation again, so
nothing but the two pre-activations is kept for it, and a plain SwiGLU keeps those too. T tokens,
F = d_ff. What it computes is written in `prosparse.kernels.reference`.

Where the backward pass puts its two results, each as large as x_1, is half of an FFN's memory:

- eager, with `owns_inputs`: into the pre-activations, which nobody needs any more;
- compiled: one into the gradient of x_1, which the compiler knows to be dead by then (saved tensors
  are inputs of its backward graph, and it never writes into those);
- else into new memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from prosparse.kernels.backend import training_implementation

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

NEW, INPUTS, GRADIENT = "new", "inputs", "gradient"


class ReGLU(NamedTuple):
    """What `reglu` returns."""

    x1: Tensor
    """[T, F], the input of the down projection, in the dtype of the pre-activations."""
    l1: Tensor
    """||x_1||_1 over the real tokens, a float32 scalar with gradient."""
    num_active: Tensor
    """Non-zero entries of x_1 over the real tokens, an int64 scalar."""


def reglu(
    gate_pre: Tensor,
    up: Tensor,
    mask_T: Tensor | None = None,
    *,
    threshold: float | None = None,
    shift: float = 0.0,
    owns_inputs: bool = False,
) -> ReGLU:
    """x_1 = act(gate_pre) * up with its L1 norm (Eq. 2 of ProSparse) and its active entries.

    Sums have a fixed order: two runs are equal to the last bit.

    Args:
        gate_pre: [T, F], the gate before its activation; float32, bfloat16 or float16.
        up: [T, F], in the dtype of `gate_pre`.
        mask_T: bool [T], false where a token is padding: it has an x_1, and counts for nothing else.
        threshold: t >= 0 of FATReLU (Eq. 3), ties are kept; None is ReLU.
        shift: b >= 0 of shifted ReLU, max(x - b, 0); only with ReLU.
        owns_inputs: Nothing else reads the pre-activations: the backward pass may overwrite them. If
            something does need them, autograd says so.

    Raises:
        ValueError: Shapes, dtypes or devices do not go together.

    Example:
        >>> x1, l1, num_active = reglu(gate_proj(x_TD), up_proj(x_TD), owns_inputs=True)
        >>> loss = loss_of(down_proj(x1)) + coefficient * l1
    """
    memory = GRADIENT if torch.compiler.is_compiling() else INPUTS if owns_inputs else NEW
    return ReGLU(*_reglu(gate_pre, up, mask_T, threshold, shift, memory))


@torch.library.custom_op("prosparse::reglu", mutates_args=())
def _reglu(
    gate_pre: Tensor,
    up: Tensor,
    mask_T: Tensor | None,
    threshold: float | None,
    shift: float,
    memory: str,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(gate_pre, up, mask_T, threshold, shift)
    return training_implementation(up.device).reglu(gate_pre, up, mask_T, threshold, shift)


@_reglu.register_fake
def _(gate_pre: Tensor, up: Tensor, *_options: object) -> tuple[Tensor, Tensor, Tensor]:
    l1 = up.new_empty((), dtype=torch.float32)
    return up.new_empty(up.shape), l1, up.new_empty((), dtype=torch.int64)


@torch.library.custom_op("prosparse::reglu_backward", mutates_args=("d_gate", "d_up"))
def _reglu_backward(
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
    training_implementation(up.device).reglu_backward(
        grad_x1, grad_l1, gate_pre, up, mask_T, threshold, shift, d_gate, d_up
    )


@_reglu_backward.register_fake
def _(*_arguments: object) -> None:
    return None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    gate_pre, up, mask_T, ctx.threshold, ctx.shift, ctx.memory = inputs
    ctx.save_for_backward(gate_pre, up, mask_T)


def _backward(ctx: Any, grad_x1: Tensor, grad_l1: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    gate_pre, up, mask_T = ctx.saved_tensors
    d_gate, d_up = _memory(ctx.memory, grad_x1, gate_pre, up)
    _reglu_backward(grad_x1, grad_l1, gate_pre, up, mask_T, ctx.threshold, ctx.shift, d_gate, d_up)
    return d_gate, d_up, None, None, None, None


_reglu.register_autograd(_backward, setup_context=_keep)


def _memory(kind: str, grad_x1: Tensor, gate_pre: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the gradients of `gate_pre` and `up` go."""
    if kind == INPUTS and _has_rows(gate_pre) and _has_rows(up):
        return gate_pre.detach(), up.detach()
    if kind == GRADIENT and grad_x1.is_contiguous():
        return grad_x1, up.new_empty(up.shape)
    return gate_pre.new_empty(gate_pre.shape), up.new_empty(up.shape)


def _has_rows(tensor: Tensor) -> bool:
    """Whether every entry has memory of its own, and those of a token are neighbors."""
    return tensor.stride(1) == 1 and tensor.stride(0) >= tensor.shape[1]


def _check(
    gate_pre: Tensor, up: Tensor, mask_T: Tensor | None, threshold: float | None, shift: float
) -> None:
    if up.dim() != 2 or up.dtype not in DTYPES or not up.numel():
        raise ValueError(
            "up must be [T, F] in float32, bfloat16 or float16 and not empty; found "
            f"{list(up.shape)} in {up.dtype}."
        )
    if (gate_pre.shape, gate_pre.dtype, gate_pre.device) != (up.shape, up.dtype, up.device):
        raise ValueError(
            f"gate_pre must be {list(up.shape)} in {up.dtype} on {up.device}, as up is; found "
            f"{list(gate_pre.shape)} in {gate_pre.dtype} on {gate_pre.device}."
        )
    if mask_T is not None and (
        mask_T.shape != up.shape[:1] or mask_T.dtype != torch.bool or mask_T.device != up.device
    ):
        raise ValueError(
            f"mask_T must be bool [{len(up)}] on {up.device}; found {list(mask_T.shape)} in "
            f"{mask_T.dtype} on {mask_T.device}."
        )
    if shift and threshold is not None:
        raise ValueError(f"A shift goes with ReLU only; found one of {shift} beside a threshold.")
