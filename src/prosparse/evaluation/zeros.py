# SPDX-License-Identifier: Apache-2.0
"""Count zeros of x_1 while a model answers, in real tokens alone.

Items that run in one batch are padded, on the right where answers are ranked and on the left where they
are generated; a row that has ended goes on as padding until the others have. None of it counts.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from prosparse.kernels.activity import count_active
from prosparse.model.ffn import ffns
from prosparse.model.tap import tap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedModel

PADDING = 0
"""What lm-eval pads with on the right, whatever the tokenizer has."""


class ZeroMeter:
    """Active entries of x_1 by layer and the tokens they are of, since the last `take`.

    Args:
        model: Any causal language model whose FFNs are understood.
        end: The token that `generate` fills up ended rows with.
    """

    def __init__(self, model: PreTrainedModel, end: int | None) -> None:
        self._model, self._ffns, self._end = model, ffns(model), end
        self._real_T: Tensor | None = None
        self._active_L = torch.zeros(len(self._ffns), dtype=torch.int64, device=model.device)
        self._num_tokens = torch.zeros((), dtype=torch.int64, device=model.device)

    @property
    def d_ff(self) -> int:
        """Entries of x_1 in one layer for one token."""
        return self._ffns[0].d_ff

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count in every forward pass of the model inside the block."""
        handle = self._model.register_forward_pre_hook(self._see_call, with_kwargs=True)
        try:
            with tap(self._ffns, self._observe):
                yield
        finally:
            handle.remove()

    def take(self) -> tuple[list[int], int]:
        """Return active entries by layer and the number of tokens, and start again from zero."""
        counted = self._active_L.tolist(), int(self._num_tokens)
        self._active_L.zero_()
        self._num_tokens.zero_()
        return counted

    def _see_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        self._real_T = real_tokens(ids, kwargs.get("attention_mask"), self._end).flatten()
        self._num_tokens += self._real_T.sum()

    def _observe(self, layer: int, x1: Tensor) -> None:
        assert self._real_T is not None
        active_T = count_active(x1.reshape(-1, x1.shape[-1]))
        self._active_L[layer] += (active_T * self._real_T).sum()


def real_tokens(ids: Tensor, attention_mask: Tensor | None, end: int | None) -> Tensor:
    """Return which tokens of a pass are no padding, bool [batch, sequence].

    Args:
        ids: [batch, sequence].
        attention_mask: What `generate` passes, [batch, all tokens so far]; None where answers are ranked.
        end: The token of ended rows.
    """
    if ids.shape[0] == 1:  # alone in its batch, so nothing is padded
        return torch.ones_like(ids, dtype=torch.bool)
    if attention_mask is None:
        return ids.flip(1).ne(PADDING).int().cummax(1).values.flip(1).bool()
    real = attention_mask[:, -ids.shape[1] :].bool()
    return real & ids.ne(end) if ids.shape[1] == 1 and end is not None else real
