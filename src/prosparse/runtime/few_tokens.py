# SPDX-License-Identifier: Apache-2.0
"""The dense projections of a model, attention's and the head, with a second way for a few tokens.

With its FFNs sparse, a decode step spends most of its time in them. cuBLAS and what torch.compile
makes of them read their weights at two thirds to nine tenths of the memory's speed, depending on what
autotuning found; `prosparse.kernels.linear` reads them as it reads the gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from prosparse.kernels.linear import linear, quantized_linear
from prosparse.model.quantized import QuantizedLinear, QuantizedMatrix, TiedHead
from prosparse.runtime.eligible import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

WAY = "_few_tokens"


@dataclass(slots=True)
class FewTokens:
    """The second way through one projection."""

    max_tokens: int
    known_weight: tuple[int, int] | None = None
    """Address and version at the last call: a weight written since may still be on its way."""

    def takes(self, x: Tensor, projection: nn.Linear) -> bool:
        """Whether an input [..., tokens, D] goes this way: few tokens, no gradient, no autocast."""
        weight = projection.weight
        if x.dtype != weight.dtype or (torch.is_grad_enabled() and weight.requires_grad):
            return False
        return self.takes_input(x)

    def takes_input(self, x: Tensor) -> bool:
        """The same, of a projection in few bits, which takes any dtype and has no gradient."""
        if not 0 < x.numel() <= self.max_tokens * x.shape[-1]:
            return False
        if torch.is_autocast_enabled(x.device.type):
            return False
        return not (torch.is_grad_enabled() and x.requires_grad)

    def is_ready(self, weight: Tensor) -> bool:
        """Whether nothing has written the weight since the last call; true in compiled code."""
        if torch.compiler.is_compiling():
            return True
        known, self.known_weight = self.known_weight, (weight.data_ptr(), weight._version)
        return known == self.known_weight


class FewTokenLinear(nn.Linear):
    """A Linear with a second way; `swap_in` makes one of what is there already."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the projection of [..., D]; by `prosparse.kernels.linear` where tokens are few."""
        way = cast("FewTokens", getattr(self, WAY))
        if not way.takes(input, self):
            return super().forward(input)
        x_TD = input.reshape(-1, self.in_features)
        y_TF = linear(x_TD, self.weight, self.bias, weights_ready=way.is_ready(self.weight))
        return y_TF.view(*input.shape[:-1], self.out_features)


class FewTokenQuantized(nn.Module):
    """Mixed into a `QuantizedLinear` or `TiedHead`: its values are unpacked as they are read."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the projection of [..., D]."""
        way = cast("FewTokens", getattr(self, WAY))
        if not way.takes_input(x):
            return super().forward(x)
        packed = cast("QuantizedLinear | TiedHead", self)
        values = packed.values
        y_TF = quantized_linear(
            x.reshape(-1, x.shape[-1]), values, packed.scales, packed.bias, way.is_ready(values)
        )
        return y_TF.view(*x.shape[:-1], y_TF.shape[-1])


class FewTokenQuantizedLinear(FewTokenQuantized, QuantizedLinear):
    """A `QuantizedLinear` with a second way."""


class FewTokenTiedHead(FewTokenQuantized, TiedHead):
    """A `TiedHead` with a second way."""


SECOND_WAYS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FewTokenLinear,
    QuantizedLinear: FewTokenQuantizedLinear,
    TiedHead: FewTokenTiedHead,
}


def packed_projections(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the projections in few bits whose rows are outputs: all but an FFN's `down`."""
    return [
        module
        for module in modules
        if type(module) is TiedHead or (type(module) is QuantizedLinear and not module.is_down)
    ]


def plain_linears(modules: Iterable[nn.Module]) -> list[nn.Linear]:
    """Return the modules that are Linear layers and nothing else, with weights the kernels read."""
    return [
        module
        for module in modules
        if type(module) is nn.Linear
        and module.weight.dtype in DTYPES
        and module.weight.is_contiguous()
    ]


def stored(projection: nn.Module) -> list[Tensor]:
    """Return what is read of a projection: its weight, or its values in few bits and their scales."""
    if isinstance(projection, TiedHead):
        projection = projection.embedding
    weight = cast("Tensor", projection.weight)
    if isinstance(projection, QuantizedMatrix):
        return [weight, projection.scales]
    return [weight]


def swap_in(projection: nn.Module, max_tokens: int) -> None:
    """Give a projection its second way; it stays where it is, and what it is called."""
    projection.__class__ = SECOND_WAYS[type(projection)]
    setattr(projection, WAY, FewTokens(max_tokens))


def swap_out(projection: nn.Module) -> None:
    """Make a projection what it was before `swap_in`."""
    projection.__class__ = next(
        plain for plain, second in SECOND_WAYS.items() if type(projection) is second
    )
    delattr(projection, WAY)
