# SPDX-License-Identifier: Apache-2.0
"""Whether decoded tokens are those of the dense model, and what may excuse another one.

Two decodes of one model in one dtype round differently, and where two logits lie within that
rounding either token is right; the texts then part, and nothing can be said of the rest by
comparing them. So every token of a decode is judged by its own text: the dense model reads that
text in one pass, and at each place its logits may prefer no token to the decoded one by more than
rounding. How far rounding moves a logit is measured, not chosen: the dense model computes the logits
of its own text twice, token by token with a cache and all at once, and its weights compute them a
third time one precision up. V vocabulary, N new tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prosparse.benchmarking.decode_precise import ComputesIn, one_precision_up
from prosparse.records.decode_speed import TokenCheck
from prosparse.runtime.decodable import cache_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOG = logging.getLogger(__name__)

BOUND = (
    "A logit may be off by twice the largest difference between the dense model's logits, with a "
    "cache and in one pass, and those of the same weights computed in {dtype}, on its own text."
)
BOUND_WITHOUT = (
    "A logit may be off by twice the largest difference between the dense model's logits with a "
    "cache and in one pass, because computing them in {dtype} failed: {reason}."
)


@dataclass(frozen=True, slots=True)
class DenseDecode:
    """What the dense model decodes."""

    tokens: list[int]
    """N greedy tokens; the end-of-text token is one like any other."""
    logits: Tensor
    """float32 [N, V]: what each token was chosen from."""
    bound: float
    """How far rounding may move a logit, or two against each other."""
    bound_method: str
    """How the bound was found, in a sentence."""


def dense_decode(model: PreTrainedModel, prompt: Tensor, num_tokens: int) -> DenseDecode:
    """Decode greedily with the model as it is, one eager forward pass after another.

    Args:
        model: The dense model.
        prompt: [1, P] token ids.
        num_tokens: N.
    """
    logits_NV = cached_logits(model, prompt, num_tokens)
    tokens = logits_NV.argmax(dim=1).tolist()
    in_one_pass_NV = _logits_in_one_pass(model, prompt, tokens)
    reference_NV, method = _more_precise_logits(model, prompt, tokens)
    noise = float((torch.stack([logits_NV, in_one_pass_NV]) - reference_NV).abs().max())
    unit = torch.finfo(model.dtype).eps * float(logits_NV.abs().max())
    return DenseDecode(tokens, logits_NV, 2 * max(noise, unit), method)


def cached_logits(
    model: PreTrainedModel, prompt: Tensor, num_tokens: int, text: Sequence[int] | None = None
) -> Tensor:
    """Return what each new token is chosen from, one eager forward pass with a cache for each.

    Args:
        model: Dense or accelerated.
        prompt: [1, P] token ids.
        num_tokens: N.
        text: The N tokens to go on with, whatever the model prefers; None takes the likeliest.

    Returns:
        float32 [N, V].
    """
    fed, cache, name, rows = prompt, None, cache_name(model), []
    with torch.no_grad():
        for place in range(num_tokens):
            output: Any = model(input_ids=fed, use_cache=True, **{name: cache})
            cache = getattr(output, name)
            rows.append(output.logits[0, -1].float())
            given = None if text is None else torch.tensor(text[place], device=prompt.device)
            fed = (rows[-1].argmax() if given is None else given).view(1, 1)
    return torch.stack(rows)


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


def _more_precise_logits(
    model: PreTrainedModel, prompt: Tensor, tokens: Sequence[int]
) -> tuple[Tensor, str]:
    """Return logits [N, V] without the model's own rounding, and the sentence on the bound."""
    wide = one_precision_up(model.dtype)
    name = str(wide).removeprefix("torch.")
    try:
        with ComputesIn(wide):
            logits_NV = _logits_in_one_pass(model, prompt, tokens)
    except Exception as error:  # an operation that has no such precision, or no room for it
        LOG.warning("computing the logits in %s failed", name, exc_info=True)
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        method = BOUND_WITHOUT.format(dtype=name, reason=reason)
        return _logits_in_one_pass(model, prompt, tokens), method
    return logits_NV, BOUND.format(dtype=name)


def _logits_in_one_pass(model: PreTrainedModel, prompt: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return what each token was, or could have been, chosen from: float32 or wider [N, V]."""
    new = torch.tensor([tokens[:-1]], dtype=prompt.dtype, device=prompt.device)
    with torch.no_grad():
        output: Any = model(input_ids=torch.cat([prompt, new], dim=1), use_cache=False)
        return output.logits[0, prompt.shape[1] - 1 :].float()
