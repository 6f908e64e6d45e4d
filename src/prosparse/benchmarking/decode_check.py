# SPDX-License-Identifier: Apache-2.0
"""Whether decoded tokens are those of the dense model, and what may excuse another one.

Two decodes of one model in one dtype round differently, and where two logits lie within that
rounding either token is right; the texts then part, and nothing can be said of the rest by
comparing them. So every token of a decode is judged by its own text: the dense model reads that
text in one pass, and at each place its logits may prefer no token to the decoded one by more than
rounding. How far rounding moves a logit is measured, not chosen: the dense model computes the same
logits twice, token by token with a cache and all at once. V vocabulary, N new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prosparse.records.speed import TokenCheck

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class DenseDecode:
    """What the dense model decodes."""

    tokens: list[int]
    """N greedy tokens; the end-of-text token is one like any other."""
    bound: float
    """How far rounding may move two logits against each other."""


def dense_decode(model: PreTrainedModel, prompt: Tensor, num_tokens: int) -> DenseDecode:
    """Decode greedily with the model as it is, one eager forward pass after another.

    Args:
        model: The dense model.
        prompt: [1, P] token ids.
        num_tokens: N.
    """
    fed, cache, rows = prompt, None, []
    tokens: list[int] = []
    with torch.no_grad():
        for _ in range(num_tokens):
            output: Any = model(input_ids=fed, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            rows.append(output.logits[0, -1].float())
            fed = rows[-1].argmax()[None, None]
            tokens.append(int(fed))
    logits_NV = torch.stack(rows)
    noise = float((logits_NV - _logits_in_one_pass(model, prompt, tokens)).abs().max())
    unit = torch.finfo(model.dtype).eps * float(logits_NV.abs().max())
    return DenseDecode(tokens, 2 * max(noise, unit))


def check_tokens(
    model: PreTrainedModel, prompt: Tensor, tokens: Sequence[int], dense: DenseDecode
) -> TokenCheck:
    """Judge decoded tokens by the dense model.

    Args:
        model: The dense model.
        prompt: [1, P].
        tokens: What another decode gave after the prompt.
        dense: What the dense model's own decode gave.
    """
    pairs = enumerate(zip(tokens, dense.tokens, strict=False))
    first = next((place for place, (own, other) in pairs if own != other), None)
    if first is None and len(tokens) == len(dense.tokens):
        return TokenCheck(len(tokens), None, 0.0, dense.bound)
    logits_NV = _logits_in_one_pass(model, prompt, tokens)
    chosen_N = logits_NV.gather(1, torch.tensor(tokens, device=prompt.device)[:, None])[:, 0]
    margin = float((logits_NV.amax(dim=1) - chosen_N).max())
    return TokenCheck(len(tokens), first, margin, dense.bound)


def _logits_in_one_pass(model: PreTrainedModel, prompt: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return what each token was, or could have been, chosen from: float32 [N, V]."""
    new = torch.tensor([tokens[:-1]], dtype=prompt.dtype, device=prompt.device)
    with torch.no_grad():
        output: Any = model(input_ids=torch.cat([prompt, new], dim=1), use_cache=False)
    return output.logits[0, prompt.shape[1] - 1 :].float()
