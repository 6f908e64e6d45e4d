# SPDX-License-Identifier: Apache-2.0
"""Take the FFNs or the attention out of a model, so that what is left can be timed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from prosparse.model.ffn import ffns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

ATTENTION = ("self_attn", "attention", "self_attention", "attn")  # its names in decoder layers


@contextlib.contextmanager
def bare(model: PreTrainedModel, *, keep_attention: bool) -> Iterator[None]:
    """Replace every FFN by one that returns its input; attention too, unless it is kept.

    Raises:
        LookupError: The decoder layers have no attention under a known name.
    """
    with contextlib.ExitStack() as stack:
        # Both are looked for first: without its FFNs a model is not recognized.
        owners = _owners(model, [ffn.name for ffn in ffns(model)])
        if not keep_attention:
            attention = _owners(model, attention_names(model))
            stack.enter_context(_replaced(attention, _NoAttention))
        stack.enter_context(_replaced(owners, _HandsOn))
        yield


def attention_names(model: PreTrainedModel) -> list[str]:
    """Return the dotted paths of all attention modules.

    Raises:
        LookupError: The decoder layers have none under a known name.
    """
    layers = ffns(model)[0].family.layers
    found = []
    for index, layer in enumerate(model.get_submodule(layers).children()):
        names = [name for name, _ in layer.named_children() if name in ATTENTION]
        if len(names) != 1:
            raise LookupError(f"layer {index} of {layers} has no attention under a known name")
        found.append(f"{layers}.{index}.{names[0]}")
    return found


class _HandsOn(nn.Module):
    def __init__(self, _replaced: nn.Module) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


class _NoAttention(nn.Module):
    """Returns what transformers' attention modules return: the output, and no weights."""

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__()
        self.layer_idx = getattr(replaced, "layer_idx", None)

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, None]:
        return hidden_states, None


def _owners(model: PreTrainedModel, names: list[str]) -> list[tuple[nn.Module, str]]:
    pairs = [name.rpartition(".") for name in names]
    return [(model.get_submodule(owner), child) for owner, _, child in pairs]


@contextlib.contextmanager
def _replaced(places: list[tuple[nn.Module, str]], make: type[nn.Module]) -> Iterator[None]:
    before = [getattr(owner, name) for owner, name in places]
    try:
        for (owner, name), module in zip(places, before, strict=True):
            setattr(owner, name, make(module))
        yield
    finally:
        for (owner, name), module in zip(places, before, strict=True):
            setattr(owner, name, module)
