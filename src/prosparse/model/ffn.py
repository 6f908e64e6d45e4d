# SPDX-License-Identifier: Apache-2.0
"""One view of the FFN of a layer, the same for every model family.

The families differ in names and in storage: phi3 keeps gate and up in one matrix, gpt2 keeps all
weights transposed. `FFN` hides both, so that everything above it reads `gate_proj` and `up_proj`
[F, D] and `down_proj` [D, F] (D = d_model, F = d_ff). It holds no state of its own: what it
returns are the model's modules and views of the model's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from transformers.pytorch_utils import Conv1D

from prosparse.errors import UserError
from prosparse.model.activation import DReLU
from prosparse.model.drelu import fit_forward, refuse_plain
from prosparse.model.families import FAMILIES, Family
from prosparse.model.quantized import QuantizedLinear
from prosparse.model.structure import find_family

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class FFN:
    """The FFN of one decoder layer."""

    layer: int
    """Index of the layer, from 0."""
    name: str
    """Dotted path of `module` in the model, e.g. `model.layers.0.mlp`."""
    module: nn.Module
    """The module that owns the projections and the activation."""
    family: Family

    @property
    def is_gated(self) -> bool:
        """Whether x_1 = act(gate) * up rather than act(up)."""
        return self.family.gate is not None or self.family.fused

    @property
    def d_model(self) -> int:
        """D, the width of the residual stream."""
        return _shape(self.down)[0]

    @property
    def d_ff(self) -> int:
        """F, the number of neurons."""
        return _shape(self.down)[1]

    @property
    def down(self) -> nn.Module:
        """The down projection; its input is the intermediate x_1 of shape [..., F]."""
        return self.module.get_submodule(self.family.down)

    @property
    def activation(self) -> nn.Module:
        """The activation module."""
        return self.module.get_submodule(self.family.activation)

    @property
    def rectifies_up(self) -> bool:
        """Whether x_1 = relu(gate) * relu(up), dReLU, rather than act(gate) * up."""
        return isinstance(self.activation, DReLU)

    def set_activation(self, activation: nn.Module) -> None:
        """Replace the activation module.

        Raises:
            UserError: It is dReLU and the FFN has no gate.
        """
        if isinstance(activation, DReLU):
            refuse_plain(self.family)
        setattr(self.module, self.family.activation, activation)
        fit_forward(self.module, self.family)

    def weights(self) -> dict[str, Tensor]:
        """Return the projections as views of the model's own parameters; nothing is copied.

        Quantized ones are copies, with the values that they stand for.

        Returns:
            `up_proj` [F, D], `down_proj` [D, F], and `gate_proj` [F, D] when the FFN is gated.
        """
        up = _weight(self.module.get_submodule(self.family.up))
        down = _weight(self.down)
        if self.family.fused:
            gate, up = up.chunk(2, dim=0)
            return {"gate_proj": gate, "up_proj": up, "down_proj": down}
        if self.family.gate is not None:
            gate = _weight(self.module.get_submodule(self.family.gate))
            return {"gate_proj": gate, "up_proj": up, "down_proj": down}
        return {"up_proj": up, "down_proj": down}


def ffns(model: PreTrainedModel) -> list[FFN]:
    """Return the FFNs of a model, first layer first.

    Args:
        model: A transformers causal language model as it was loaded: neither compiled nor wrapped.

    Raises:
        UserError: The model's architecture is not known and was not understood, or its layers
            are not all alike.
    """
    family = FAMILIES.get(model.config.model_type) or find_family(model)
    try:
        layers = cast("nn.ModuleList", model.get_submodule(family.layers))
        return [_view(index, layer, family) for index, layer in enumerate(layers)]
    except AttributeError as error:
        raise UserError(
            f"This {type(model).__name__} ('{model.config.model_type}') is not built as expected: "
            f"{error}. prosparse looks in every layer of '{family.layers}' for an FFN of its own, "
            f"at '{family.ffn}': give a causal language model without mixture of experts."
        ) from None


def _view(index: int, layer: nn.Module, family: Family) -> FFN:
    module = layer.get_submodule(family.ffn)
    for part in (family.gate, family.up, family.down, family.activation):
        if part is not None:
            module.get_submodule(part)  # raises AttributeError, naming the part
    name = ".".join(part for part in (family.layers, str(index), family.ffn) if part)
    return FFN(index, name, module, family)


def _shape(projection: nn.Module) -> tuple[int, int]:
    """Return (out, in)."""
    if isinstance(projection, QuantizedLinear):
        return projection.out_features, projection.in_features
    rows, columns = _weight(projection).shape
    return rows, columns


def _weight(projection: nn.Module) -> Tensor:
    """Return the weight as [out, in]: gpt2's Conv1D stores [in, out]."""
    if isinstance(projection, QuantizedLinear):
        return projection.dense_weight()
    weight = projection.get_parameter("weight")
    return weight.T if isinstance(projection, Conv1D) else weight
