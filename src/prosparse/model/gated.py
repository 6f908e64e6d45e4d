# SPDX-License-Identifier: Apache-2.0
"""What it takes to compute a gated FFN in place of its own module: its parts, and nothing else in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from prosparse.model.families import Family
    from prosparse.model.ffn import FFN


def pre_activations(ffn: FFN, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gate before its activation, and up, each [..., F], of x [..., D]."""
    return projected(ffn.module, ffn.family, x)


def projected(module: nn.Module, family: Family, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the gate and the up projection of a gated FFN's module make of x."""
    if family.gate is None:
        gate, up = getattr(module, family.up)(x).chunk(2, dim=-1)
        return gate, up
    return getattr(module, family.gate)(x), getattr(module, family.up)(x)


@torch.no_grad()
def is_only_gated_ffn(ffn: FFN) -> bool:
    """Return whether the module of a gated FFN computes down(act(gate(x)) * up(x)) and no more.

    With dReLU that is down(relu(gate(x)) * relu(up(x))).

    One token is sent through it: what `down` returns must be what the module returns, and what it is
    given must be the product. Dropout in between is seen only in training mode.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((args[0], output))

    weight = ffn.weights()["up_proj"]
    x = torch.linspace(-1, 1, weight.shape[1], device=weight.device).to(weight.dtype)[None, None]
    handle = ffn.down.register_forward_hook(note)
    try:
        output = ffn.module.forward(x)  # its hooks are for real passes
        gate, up = pre_activations(ffn, x)
        expected = ffn.activation(gate) * (torch.relu(up) if ffn.rectifies_up else up)
    except TypeError:  # it wants more than x
        return False
    finally:
        handle.remove()
    return (
        len(calls) == 1 and output is calls[0][1] and _equal(calls[0][0], cast("Tensor", expected))
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, equal_nan=True))
