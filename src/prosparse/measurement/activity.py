# SPDX-License-Identifier: Apache-2.0
"""Count everything about the active neurons of a data set while the model runs on it.

Each subject has its counter, all fed from the same look at x_1. What is seen of the layers waits until
the pass has reached the last one, and is counted for all at once: on a GPU the counters' many small
steps would otherwise take longer than those of a small model. Counts are integers on the model's
device, whose number depends on the model and the window length only.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prosparse.errors import UserError
from prosparse.kernels.activity import count_activity, sample_activity
from prosparse.measurement.magnitudes import Magnitudes
from prosparse.measurement.neurons import NeuronCounts
from prosparse.measurement.overlap import NeighborOverlap
from prosparse.measurement.tokens import TokenCounts
from prosparse.measurement.unions import BatchUnion, SpanUnion
from prosparse.model.ffn import ffns
from prosparse.model.tap import tap
from prosparse.records.activity import Activity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

    from prosparse.measurement.perplexity import Windows
    from prosparse.model.ffn import FFN

NUM_SAMPLED_PLACES = 32
"""Places of a window, spread evenly, where batch unions and magnitudes are counted."""


class ActivityMeter:
    """All counters of one data set.

    Args:
        ffns: The FFNs to watch; all of one width.
        context_length: Tokens in every window.
        device: Where the counts are kept: that of the model.

    Raises:
        UserError: The layers differ in width.
    """

    def __init__(self, ffns: Sequence[FFN], context_length: int, device: torch.device) -> None:
        self._ffns = ffns
        self._context_length = context_length
        num_layers, self.d_ff = len(ffns), ffns[0].d_ff
        widths = sorted({ffn.d_ff for ffn in ffns})
        if len(widths) > 1:
            raise UserError(
                f"--detail counts neurons of layers that are all alike; found {widths} neurons wide "
                "ones. Measure without it."
            )
        num_places = min(NUM_SAMPLED_PLACES, context_length)
        places = [i * context_length // num_places for i in range(num_places)]
        self._places_P = torch.tensor(places, device=device)
        self.neurons = NeuronCounts(num_layers, self.d_ff, device)
        self.tokens = TokenCounts(num_layers, self.d_ff, context_length, device)
        self.spans = SpanUnion(num_layers, self.d_ff, context_length, device)
        self.batches = BatchUnion(num_layers, self.d_ff, device)
        self.overlap = NeighborOverlap(num_layers, device)
        self.magnitudes = Magnitudes(num_layers, device)
        self._seen: dict[int, tuple[Tensor, ...]] = {}
        """What this pass has shown so far, by layer."""

    @contextmanager
    def watch(self) -> Iterator[ActivityMeter]:
        """Count in every forward pass inside the block; each must be of whole windows."""
        with tap(self._ffns, self._observe):
            yield self

    def _observe(self, layer: int, x1: Tensor) -> None:
        # Some families (opt) flatten batch and sequence.
        x1_BSF = x1.detach().reshape(-1, self._context_length, self.d_ff)
        self._seen[layer] = (*count_activity(x1_BSF), *sample_activity(x1_BSF, self._places_P))
        if len(self._seen) == len(self._ffns):
            seen = (self._seen[index] for index in range(len(self._ffns)))
            self._count(*map(torch.stack, zip(*seen, strict=True)))
            self._seen.clear()

    def _count(
        self,
        by_token_LBS: Tensor,
        with_next_LBS: Tensor,
        by_neuron_LF: Tensor,
        by_span_LK: Tensor,
        mask_LBPF: Tensor,
        by_exponent_LE: Tensor,
    ) -> None:
        """Count one pass; the arguments are those of `Activity` and `Sample`, of all layers."""
        num_windows = by_token_LBS.shape[1]
        self.neurons.observe(by_neuron_LF, num_windows * self._context_length)
        self.tokens.observe(by_token_LBS)
        self.spans.observe(by_span_LK, num_windows)
        self.overlap.observe(with_next_LBS, by_token_LBS)
        self.batches.observe(mask_LBPF)
        self.magnitudes.observe(by_exponent_LE)

    def layer_sparsity(self) -> tuple[float, ...]:
        """Return each layer's share of zeros so far, in [0, 1]: as `SparsityMeter`'s."""
        num_entries = self.neurons.num_tokens * self.d_ff
        return tuple(1 - count / num_entries for count in self.neurons.active_LF.sum(1).tolist())

    def empty(self) -> ActivityMeter:
        """Return a meter like this one that has counted nothing."""
        return ActivityMeter(self._ffns, self._context_length, self._places_P.device)

    def add(self, other: ActivityMeter) -> None:
        """Count what another data set's meter, of the same model and windows, has counted."""
        self.neurons.add(other.neurons)
        self.tokens.add(other.tokens)
        self.spans.add(other.spans)
        self.batches.add(other.batches)
        self.overlap.add(other.overlap)
        self.magnitudes.add(other.magnitudes)

    def summary(self) -> Activity:
        """Return the record of everything counted so far."""
        first_exponent, magnitudes = self.magnitudes.histogram()
        return Activity(
            num_tokens=self.neurons.num_tokens,
            d_ff=self.d_ff,
            neuron_histogram=self.neurons.histogram(),
            dead=self.neurons.dead(),
            always_on=self.neurons.always_on(),
            token_histogram=self.tokens.histogram(),
            position_starts=self.tokens.starts,
            position_active=self.tokens.by_position(),
            span_sizes=self.spans.sizes,
            span_union=self.spans.shares(),
            batch_sizes=self.batches.sizes,
            batch_union=self.batches.shares(),
            neighbor_jaccard=self.overlap.mean(),
            magnitude_first_exponent=first_exponent,
            magnitude_histogram=magnitudes,
        )


def activity_meters(model: PreTrainedModel, held_out: Sequence[Windows]) -> list[ActivityMeter]:
    """Return a meter for each data set.

    Raises:
        UserError: The model's FFNs are not known or differ in width.
    """
    found = ffns(model)
    return [ActivityMeter(found, w.ids_WS.shape[1], model.device) for w in held_out]


def pooled(meters: Sequence[ActivityMeter]) -> Activity | None:
    """Return the record of all data sets together; None without meters."""
    if not meters:
        return None
    whole = meters[0].empty()
    for meter in meters:
        whole.add(meter)
    return whole.summary()
