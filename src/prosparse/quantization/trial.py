# SPDX-License-Identifier: Apache-2.0
"""The loss of a model with some of its layers held in few bits, on text that decides.

Layers before the first that is changed compute what they always did, so what the decoder layers put
out is remembered once, and a trial of layer l starts there. All of it is float32: rounding a matrix to
8 bits changes no more than passes in bfloat16 do, which would drown what is measured.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prosparse.measurement.perplexity import window_losses
from prosparse.model.ffn import ffns
from prosparse.model.quantizing import has_tied_head, hold, tie_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from transformers import PreTrainedModel

    from prosparse.model.quantizing import Place

WINDOWS_AT_ONCE = 4


class Trial:
    """Measures a model under changes that are taken back.

    Args:
        model: In eval mode and float32, not quantized. It runs once here.
        ids_WS: Text to decide on, int64 [windows, length].
        group_size: Values that share a scale.
        on_pass: Called after each pass over the text.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ids_WS: Tensor,
        *,
        group_size: int,
        on_pass: Callable[[], object] = lambda: None,
    ) -> None:
        self.model = model
        self.group_size = group_size
        self._batches = ids_WS.to(model.device).split(WINDOWS_AT_ONCE)
        self._on_pass = on_pass
        self._layers = list(model.get_submodule(ffns(model)[0].family.layers).children())
        self._outputs: list[list[Any]] = [[] for _ in self._layers]
        with contextlib.ExitStack() as hooks:
            for layer, outputs in zip(self._layers, self._outputs, strict=True):
                handle = layer.register_forward_hook(lambda *io, kept=outputs: kept.append(io[2]))
                hooks.callback(handle.remove)
            self.baseline = self._loss(start=0)
            """Loss of the model as it is, nats per token."""

    def increase(self, bits: Mapping[Place, int]) -> float:
        """Return by how much the loss rises, in nats per token, with these layers in few bits."""
        started = [0 if place.layer is None else place.layer for place in bits]
        with self._held(bits):
            return self._loss(start=min(started, default=0)) - self.baseline

    @contextlib.contextmanager
    def _held(self, bits: Mapping[Place, int]) -> Iterator[None]:
        before = {place: place.module for place in bits}
        head = self.model.get_output_embeddings()
        is_tied = has_tied_head(self.model)
        try:
            for place, wanted in bits.items():
                hold(place, wanted, self.group_size)
            if is_tied:
                tie_head(self.model)
            yield
        finally:
            for place, module in before.items():
                place.put(module)
            if head is not None:
                self.model.set_output_embeddings(head)

    @torch.no_grad()
    def _loss(self, start: int) -> float:
        losses = []
        for index, batch_BS in enumerate(self._batches):
            outputs = [kept[index] for kept in self._outputs[:start]]
            with replayed(self._layers, outputs):
                losses.append(window_losses(self.model, batch_BS))
        self._on_pass()
        return torch.cat(losses).mean().item()


@contextlib.contextmanager
def replayed(layers: Sequence[nn.Module], outputs: Sequence[Any]) -> Iterator[None]:
    """Let the first layers return these outputs instead of computing them."""
    replaced = list(zip(layers, outputs, strict=False))
    try:
        for layer, output in replaced:
            layer.forward = lambda *_, kept=output, **__: kept
        yield
    finally:
        for layer, _ in replaced:
            del layer.forward
