# SPDX-License-Identifier: Apache-2.0
"""lm-eval's own Hugging Face model, for a model that is loaded already and may run sparsely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from prosparse.runtime.decodable import cache_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SOFTMAX = torch.float32
"""In bfloat16 the log-likelihood of a sentence is a multiple of 2 or 4, and candidates tie."""


class AnsweringModel(HFLM):
    """HFLM with two additions: passes short enough for a sparse path, and counts of what was cut.

    Log-likelihoods are sums in float32 whatever the network's dtype, as HFLM's are with
    `softmax_dtype="float32"`.

    Args:
        network: In eval mode, on its device, in its dtype.
        tokenizer: Its tokenizer.
        batch_size: Items in one pass.
        max_tokens: The most tokens that a pass may have (batch times sequence); None: any number.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__(
            network,
            tokenizer=tokenizer,
            batch_size=batch_size,
            backend="causal",
            softmax_dtype=SOFTMAX,
        )
        self._max_tokens = max_tokens
        self.num_unended = 0
        """Generated answers that reached their limit of tokens without a stop."""
        self.num_cut_prompts = 0
        """Inputs that were longer than the model's context and lost their beginning."""

    def _model_call(
        self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Return logits [batch, sequence, vocab]; in passes of at most `max_tokens`, with a cache."""
        if self._max_tokens is None:
            return super()._model_call(inps, attn_mask, labels)
        logits, cache, name = [], None, cache_name(self.model)
        with torch.no_grad():
            for piece in inps.split(self._max_tokens // inps.shape[0], dim=1):
                out = self.model(piece, use_cache=True, **{name: cache})
                cache = getattr(out, name)
                logits.append(out.logits)
        return torch.cat(logits, dim=1)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        self.num_cut_prompts += sum(
            len(context) + len(answer) > self.max_length + 1 for _, context, answer in requests
        )
        # The caller shows progress.
        return super()._loglikelihood_tokens(requests, True, override_bs)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return ids and attention mask [batch, sequence]; count the prompts that lose their beginning."""
        if left_truncate_len:
            whole = (len(self.tok_encode(string)) for string in strings)
            self.num_cut_prompts += sum(length > left_truncate_len for length in whole)
        return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> Tensor:
        whole = super()._model_generate(context, max_length, stop, **generation_kwargs)
        new = whole[:, context.shape[1] :]
        if whole.shape[1] == max_length:
            for text in self.tokenizer.batch_decode(new):
                self.num_unended += not any(end in text for end in stop)
        return whole
