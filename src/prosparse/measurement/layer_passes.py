# SPDX-License-Identifier: Apache-2.0
"""Run text through a model and look at one layer, window by window, as it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from prosparse.data.windows import each_window
from prosparse.measurement.perplexity import windows_in_pass
from prosparse.model.device import autocast
from prosparse.model.tap import tap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prosparse.data.sources import Source
    from prosparse.model.ffn import FFN


@dataclass(frozen=True, slots=True)
class LayerPasses:
    """A model, one of its layers, and the text to run it on, as often as needed."""

    model: PreTrainedModel
    ffn: FFN
    tokenizer: PreTrainedTokenizerBase
    sources: Mapping[str, Source]
    context_length: int
    num_tokens: int
    """Of each data set."""
    precision: str
    """`float32` or `bfloat16`."""
    progress: bool
    """Show progress bars."""

    @torch.no_grad()
    def run(self, name: str, observe: Callable[[int, Tensor, Tensor], None]) -> None:
        """Call `observe` on every batch of a data set.

        Args:
            name: Of the data set.
            observe: Receives the number of the batch's first window, its token ids [B, S] on the
                CPU, and the layer's x_1 [B, S, F] on the model's device.

        Raises:
            UserError: The data set cannot be read or does not fill one window.
        """
        batch_size = windows_in_pass(self.model, self.context_length)
        windows = each_window(
            self.sources[name], name, self.tokenizer, self.context_length, self.num_tokens
        )
        bar = tqdm(
            total=self.num_tokens, unit="tok", desc=name, disable=not self.progress, leave=False
        )
        was_training = self.model.training
        self.model.eval()
        seen: list[Tensor] = []
        first, batch = 0, []
        try:
            with tap([self.ffn], lambda _layer, x1: seen.append(x1)), bar:
                for window_S in windows:
                    batch.append(window_S)
                    if len(batch) == batch_size:
                        observe(first, *self._pass(batch, seen))
                        bar.update(batch_size * self.context_length)
                        first, batch = first + batch_size, []
                if batch:
                    observe(first, *self._pass(batch, seen))
        finally:
            self.model.train(was_training)

    def _pass(self, batch: list[Tensor], seen: list[Tensor]) -> tuple[Tensor, Tensor]:
        ids_BS = torch.stack(batch)
        with autocast(self.precision, self.model.device):
            # without the head: nobody looks at the logits, which would be the largest tensor
            self.model.base_model(input_ids=ids_BS.to(self.model.device), use_cache=False)
        x1_BSF = seen.pop().reshape(*ids_BS.shape, -1)  # some families (opt) flatten B and S
        return ids_BS, x1_BSF
