# SPDX-License-Identifier: Apache-2.0
"""The FFN of a transformers model with a second, sparse way through it for a few tokens.

The modules stay what they are and where they are; only their classes are exchanged for subclasses
with another `forward`, so names, parameters, state dicts and deep copies stay as well:

- gated: the FFN module itself computes the whole FFN;
- plain: `down` does. What follows it in the same forward (opt's residual, gpt2's dropout) belongs
  to the model, not to the FFN; the first projection and the activation hand their input on.

All modules of one FFN ask the same `SparsePath` whether it takes an input, by facts that are the
same for all of them. Whatever it does not take goes through the forward of the model itself.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.ops import screened_ffn, sparse_ffn
from prosparse.kernels.screen import Screen, make_screen
from prosparse.model.activation import DReLU, FATReLU, ShiftedReLU
from prosparse.runtime.neuron_major import rows_by_neuron, scales_by_neuron

if TYPE_CHECKING:
    from prosparse.model.ffn import FFN

PATH = "_sparse_path"


class SparsePath:
    """The sparse way through one FFN, shared by the modules that were exchanged.

    Args:
        ffn: The FFN, its projections laid out by neurons.
        max_tokens: Inputs of more tokens than this go the dense way.
        screened: Hold an int8 copy of the gate and read its own rows only where that leaves a doubt.
    """

    def __init__(self, ffn: FFN, max_tokens: int, screened: bool = False) -> None:
        family = ffn.family
        self.owner = ffn.module
        self.names = tuple(
            name for name in (family.gate, family.up, family.activation, family.down) if name
        )
        self.parts = tuple(getattr(self.owner, name) for name in self.names)
        self.gate = getattr(self.owner, family.gate) if family.gate else None
        self.up = getattr(self.owner, family.up)
        self.activation = ffn.activation
        self.down = ffn.down
        self.is_fused = family.fused
        self.d_model = ffn.d_model
        self.max_tokens = max_tokens
        self.is_screened = screened
        self.screen: Screen | None = None
        self.known_gate: tuple[int, int] | None = None

    def takes(self, x: Tensor) -> bool:
        """Whether an input of any of the modules, [..., tokens, width], goes the sparse way.

        It does not where the sparse operators would leave something out: a gradient, autocast, a
        hook on a part that they never call, or a part that has been replaced since. Nor does it
        take [..., F], as when someone calls `down` alone.
        """
        if x.shape[-1] != self.d_model or not 0 < x.numel() <= self.max_tokens * self.d_model:
            return False
        if torch.is_autocast_enabled(x.device.type):
            return False
        for name, part in zip(self.names, self.parts, strict=True):
            if getattr(self.owner, name) is not part:
                return False
            if part._forward_hooks or part._forward_pre_hooks:
                return False
        return not (torch.is_grad_enabled() and self._requires_grad(x))

    def run(self, x: Tensor) -> Tensor:
        """Return the FFN's output for x [..., D], shaped like x."""
        x_TD, weights = x.reshape(-1, x.shape[-1]), self.weights()
        # Compiled code stands inside a model, where nothing writes weights just before they are used.
        ready = torch.compiler.is_compiling() or not self.renew(weights.gate_proj)
        if not self.is_screened:
            return sparse_ffn(x_TD, weights, weights_ready=ready).view(x.shape)
        assert self.screen is not None
        return screened_ffn(x_TD, weights, self.screen, weights_ready=ready).view(x.shape)

    def renew(self, gate_proj: Tensor) -> bool:
        """Return whether the gate is another than in the last call; if so, make its screen anew."""
        gate = (gate_proj.data_ptr(), gate_proj._version)
        if gate == self.known_gate:
            return False
        self.known_gate = gate
        if self.is_screened:
            self.screen = make_screen(gate_proj.detach())
        return True

    def weights(self) -> FFNWeights:
        """Return the weights as they are now: views, which follow `.to(...)` and new values."""
        first = self.up if self.gate is None else self.gate
        gate = rows_by_neuron(first, is_down=False)
        gate_scales = scales_by_neuron(first)
        gate_bias = first.bias
        up = up_scales = up_bias = None
        if self.is_fused:
            gate, up = gate.chunk(2, dim=0)
            if gate_scales is not None:
                gate_scales, up_scales = gate_scales.chunk(2, dim=0)
            if gate_bias is not None:
                gate_bias, up_bias = gate_bias.chunk(2, dim=0)
        elif self.gate is not None:
            up, up_bias = rows_by_neuron(self.up, is_down=False), self.up.bias
            up_scales = scales_by_neuron(self.up)
        activation = self.activation
        return FFNWeights(
            gate_proj=gate,
            up_proj=up,
            down_projT=rows_by_neuron(self.down, is_down=True),
            gate_scales=gate_scales,
            up_scales=up_scales,
            down_scales=scales_by_neuron(self.down),
            gate_bias=cast("Tensor | None", gate_bias),
            up_bias=cast("Tensor | None", up_bias),
            down_bias=cast("Tensor | None", self.down.bias),
            threshold=cast("float", activation.param) if isinstance(activation, FATReLU) else 0.0,
            shift=cast("float", activation.param) if isinstance(activation, ShiftedReLU) else 0.0,
            up_relu=isinstance(activation, DReLU),
        )

    def _requires_grad(self, x: Tensor) -> bool:
        return x.requires_grad or any(
            parameter.requires_grad for part in self.parts for parameter in part.parameters()
        )


class RunsTheFFN(nn.Module):
    """Mixed into a gated FFN module, or into the down projection of a plain FFN."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the whole FFN where the sparse path takes the input."""
        path = cast("SparsePath", getattr(self, PATH))
        return path.run(x) if path.takes(x) else super().forward(x)


class HandsItOn(nn.Module):
    """Mixed into the first projection and the activation of a plain FFN."""

    def forward(self, x: Tensor) -> Tensor:
        """Leave the input for `down` where the sparse path takes it."""
        path = cast("SparsePath", getattr(self, PATH))
        return x if path.takes(x) else super().forward(x)


def swap_in(ffn: FFN, path: SparsePath) -> list[nn.Module]:
    """Give an FFN its second way; return the modules whose classes were exchanged."""
    if ffn.is_gated:
        exchanged = [(ffn.module, RunsTheFFN)]
    else:
        exchanged = [(path.up, HandsItOn), (path.activation, HandsItOn), (path.down, RunsTheFFN)]
    for module, mixin in exchanged:
        module.__class__ = _with(mixin, type(module))
        setattr(module, PATH, path)
    return [module for module, _ in exchanged]


def build_screen(ffn: FFN) -> None:
    """Make the screen of an FFN now rather than in its first step; `swap_in` came before."""
    holder = ffn.module if ffn.is_gated else ffn.down
    path = cast("SparsePath", getattr(holder, PATH))
    path.renew(path.weights().gate_proj)


def swap_out(module: nn.Module) -> None:
    """Make a module what it was before `swap_in`."""
    module.__class__ = type(module).__bases__[1]
    delattr(module, PATH)


def is_swapped(module: nn.Module) -> bool:
    """Whether `swap_in` exchanged the class of this module."""
    return PATH in vars(module)


@functools.cache
def _with(mixin: type[nn.Module], base: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass; one for each class, so that compiled code knows it again."""
    return cast("type[nn.Module]", type(f"Sparse{base.__name__}", (mixin, base), {}))
