# SPDX-License-Identifier: Apache-2.0
"""Which layers of a model can be held in 8 or 4 bits, and exchanging them, in place and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from torch import nn
from transformers.pytorch_utils import Conv1D

from prosparse.errors import UserError
from prosparse.model.ffn import ffns
from prosparse.model.input_thresholds import cut_as_before
from prosparse.model.quantized import (
    GROUP_SIZE,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedMatrix,
    TiedHead,
    matrix_rows,
)
from prosparse.model.quantized_format import describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from prosparse.model.ffn import FFN

# Subclasses may do anything with their weights (scale, adapt), except those that only change names.
PLAIN = ("Linear", "Conv1D", "FalconLinear", "Embedding")


@dataclass(frozen=True, slots=True)
class Place:
    """A layer that can be held in few bits."""

    name: str
    """Its dotted name in the model."""
    owner: nn.Module
    child: str
    """Its name in its owner."""
    is_down: bool
    """Whether it is the down projection of an FFN."""
    layer: int | None
    """Index of its decoder layer; None for embedding and head."""

    @property
    def module(self) -> nn.Module:
        """What is there now."""
        return cast("nn.Module", getattr(self.owner, self.child))

    def put(self, module: nn.Module) -> None:
        """Replace what is there."""
        setattr(self.owner, self.child, module)


def places(model: PreTrainedModel, group_size: int = GROUP_SIZE) -> list[Place]:
    """Return the layers that can be quantized: all linear layers of decoder layers, embedding, head.

    A tied head is not among them: it goes with the embedding. A layer whose rows are no multiple of
    `group_size` long is left out.

    Raises:
        UserError: The model is quantized already, or no FFN of it can be.
    """
    refuse_quantized(model)
    found = ffns(model)
    for ffn in found:
        if ffn.d_model % group_size:
            raise UserError(
                f"Weights share scales in groups of {group_size} along d_model, which must be a "
                f"multiple of it; that of {ffn.name} is {ffn.d_model}."
            )
    inside = _inside_layers(model, found)
    outside = [
        place
        for place in (_place(model, name, None) for name in _table_and_head(model))
        if type(place.module).__name__ in PLAIN
    ]
    return [
        place
        for place in outside[:1] + inside + outside[1:]
        if matrix_rows(place.module, is_down=place.is_down).shape[1] % group_size == 0
    ]


def ffn_places(model: PreTrainedModel) -> list[Place]:
    """Return the projections of FFNs only, quantized or not."""
    found = []
    for ffn in ffns(model):
        family = ffn.family
        for part in (family.gate, family.up, family.down):
            if part:
                name = f"{ffn.name}.{part}"
                found.append(_place(model, name, ffn.layer, is_down=part == family.down))
    return found


def hold(place: Place, bits: int, group_size: int = GROUP_SIZE) -> None:
    """Exchange one layer for its quantized form."""
    module = place.module
    if isinstance(module, nn.Embedding):
        place.put(QuantizedEmbedding(module, bits, group_size))
    else:
        place.put(QuantizedLinear(module, bits, is_down=place.is_down, group_size=group_size))
        cut_as_before(module, place.module)


def hold_all(
    model: PreTrainedModel, bits: Mapping[str, int], found: Sequence[Place], group_size: int
) -> None:
    """Exchange layers for their quantized forms, one after the other: each weight is held once.

    The model can be saved afterwards, and loaded again where prosparse is imported.

    Args:
        model: Which the places are of.
        bits: 8 or 4 by dotted name; a place that is not named stays.
        found: The places.
        group_size: Values that share a scale.
    """
    is_tied = has_tied_head(model)
    for place in found:
        if place.name in bits:
            hold(place, bits[place.name], group_size)
    if is_tied:
        tie_head(model)
    describe(model, group_size)


def quantize_ffns(
    model: PreTrainedModel, bits: int | Mapping[str, int], *, group_size: int = GROUP_SIZE
) -> None:
    """Quantize the projections of FFNs in place, all of them or those that `bits` names.

    Args:
        model: Its FFNs in float32, bfloat16 or float16, not quantized and not accelerated.
        bits: 8 or 4 for all; or by dotted name, and the others stay.
        group_size: Weights along d_model that share a scale: 32, 64 or 128.

    Raises:
        UserError: It is quantized already, or d_model is no multiple of `group_size`.
    """
    places(model, group_size)  # refuses
    found = ffn_places(model)
    wanted = dict.fromkeys((p.name for p in found), bits) if isinstance(bits, int) else bits
    hold_all(model, wanted, found, group_size)


def is_quantized(model: PreTrainedModel) -> bool:
    """Return whether any layer of a model is held in few bits."""
    return any(isinstance(module, QuantizedMatrix) for module in model.modules())


def refuse_quantized(model: PreTrainedModel) -> None:
    """Raise if any layer is held in few bits.

    Raises:
        UserError: One is.
    """
    if is_quantized(model):
        raise UserError("This model is quantized already; start from the one it was made from.")


def has_tied_head(model: PreTrainedModel) -> bool:
    """Return whether the head of a model that is not quantized multiplies with its embedding."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None:
        return False
    # A model that has no weights yet is tied later; what will be is on this list.
    name = next(name for name, module in model.named_modules() if module is head)
    is_listed = f"{name}.weight" in model.all_tied_weights_keys
    return is_listed or getattr(head, "weight", None) is getattr(table, "weight", head)


def head_weight(model: PreTrainedModel) -> Tensor | None:
    """Return the weight of the head, [V, D], unpacked if it is quantized; None without a head."""
    head = model.get_output_embeddings()
    if isinstance(head, TiedHead | QuantizedLinear):
        return head.dense_weight()
    return getattr(head, "weight", None)


def tie_head(model: PreTrainedModel) -> None:
    """Let a tied head read the embedding, if that has become a quantized one."""
    table = model.get_input_embeddings()
    if isinstance(table, QuantizedEmbedding):
        head = model.get_output_embeddings()
        assert head is not None
        model.set_output_embeddings(TiedHead(table, head.bias))


def _inside_layers(model: PreTrainedModel, found: Sequence[FFN]) -> list[Place]:
    layers = model.get_submodule(found[0].family.layers)
    downs = {id(ffn.down) for ffn in found}
    return [
        _place(
            model,
            f"{found[0].family.layers}.{index}.{name}",
            index,
            is_down=id(module) in downs,
        )
        for index, layer in enumerate(layers.children())
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and type(module).__name__ in PLAIN
    ]


def _table_and_head(model: PreTrainedModel) -> list[str]:
    """Return the names of the embedding and of a head that has a weight of its own."""
    wanted = [model.get_input_embeddings()]
    if not has_tied_head(model) and isinstance(model.get_output_embeddings(), nn.Linear):
        wanted.append(cast("nn.Module", model.get_output_embeddings()))
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(module)] for module in wanted]


def _place(model: PreTrainedModel, name: str, layer: int | None, *, is_down: bool = False) -> Place:
    owner, _, child = name.rpartition(".")
    return Place(name, model.get_submodule(owner), child, is_down, layer)
