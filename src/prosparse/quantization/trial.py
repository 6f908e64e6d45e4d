# SPDX-License-Identifier: Apache-2.0
"""How far a model's predictions move with some of its layers held in few bits, on text that decides.

That is the KL divergence from the model as it is, in nats per token. Where the model's probabilities
are right it is the expected increase of the loss, and the increase itself, on as little text as
each layer alone can afford, is mostly chance: some roundings happen to help there. What many layers cost
together is large enough to be measured as what it is, the increase of the loss on longer text.

Layers before the first that is changed compute what they always did, so what the decoder layers put
out is remembered once, and a trial of layer l starts there. All of it is float32: rounding a matrix to
8 bits changes no more than passes in bfloat16 do, which would drown what is measured.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prosparse.measurement.perplexity import measure_windows, paired_increase
from prosparse.model.ffn import ffns
from prosparse.model.quantizing import has_tied_head, hold, tie_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from transformers import PreTrainedModel

    from prosparse.measurement.perplexity import Windows
    from prosparse.model.quantizing import Place

WINDOWS_AT_ONCE = 4


class Trial:
    """Measures a model under changes that are taken back.

    Args:
        model: In eval mode and float32, not quantized. It runs once here.
        ids_WS: Text to decide on, int64 [windows, length].
        group_size: Values that share a scale.
        longer: Other text, of several windows each, to measure on what layers cost together; none: the
            divergence on the first text says it.
        precision: Of the passes over it, `float32` or `bfloat16`.
        on_pass: Called after each pass over a text.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ids_WS: Tensor,
        *,
        group_size: int,
        longer: Sequence[Windows] = (),
        precision: str = "float32",
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
            self._expected = [self._log_probabilities(batch_BS) for batch_BS in self._batches]
        self._longer, self._precision = longer, precision
        self._losses = self._losses_of_longer()
        on_pass()

    def divergence(self, bits: Mapping[Place, int]) -> float:
        """Return how far the predictions are, in nats per token, with these layers in few bits."""
        started = [0 if place.layer is None else place.layer for place in bits]
        with self._held(bits):
            return self._divergence(start=min(started, default=0))

    def together(self, bits: Mapping[Place, int]) -> float:
        """Return what layers in few bits cost together, in nats per token, to be on the safe side.

        That is the increase of the loss on the longer text plus its standard error.
        """
        if not self._longer:
            return self.divergence(bits)
        with self._held(bits):
            losses = self._losses_of_longer()
        self._on_pass()
        return math.log1p(sum(paired_increase(losses, self._losses)))

    def _losses_of_longer(self) -> list[Tensor]:
        return [
            measure_windows(self.model, windows, precision=self._precision).loss_W
            for windows in self._longer
        ]

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

    def _divergence(self, start: int) -> float:
        total, count = 0.0, 0
        for index, batch_BS in enumerate(self._batches):
            outputs = [kept[index] for kept in self._outputs[:start]]
            with replayed(self._layers, outputs):
                found_NV = self._log_probabilities(batch_BS)
            expected_NV = self._expected[index]
            total += functional.kl_div(
                found_NV, expected_NV, reduction="sum", log_target=True
            ).item()
            count += len(found_NV)
        self._on_pass()
        return total / count

    @torch.no_grad()
    def _log_probabilities(self, ids_BS: Tensor) -> Tensor:
        """Return those of every token's successor, [B S, V]."""
        logits_BSV = self.model(input_ids=ids_BS, use_cache=False).logits
        return logits_BSV.flatten(0, 1).log_softmax(dim=-1)


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
