# SPDX-License-Identifier: Apache-2.0
"""Draw the next token from logits, by temperature and top-p. B batch, V vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.generation import TopPLogitsWarper

NO_IDS = torch.empty(0, dtype=torch.long)


def sampled_on_device(logits_BV: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return tokens [B, 1] without asking the host for anything, as a CUDA graph needs it.

    Args:
        logits_BV: float32.
        temperature: > 0.
        top_p: Draw from the smallest set of tokens with this much probability, in (0, 1].
    """
    probs, tokens = (logits_BV / temperature).softmax(dim=-1).sort(descending=True)
    probs = probs.masked_fill(probs.cumsum(dim=-1) - probs >= top_p, 0)
    # The largest p / Exp(1) is token i with probability p_i; multinomial would ask the host.
    noise = torch.empty_like(probs).exponential_().clamp_min_(torch.finfo(probs.dtype).tiny)
    return tokens.gather(-1, (probs / noise).argmax(dim=-1, keepdim=True))


def sampled_by_transformers(logits_BV: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return what `model.generate` draws after the same seed, [B, 1]; arguments as above."""
    scores_BV = logits_BV / temperature
    if top_p < 1:
        scores_BV = TopPLogitsWarper(top_p)(NO_IDS, scores_BV)  # type: ignore[arg-type]
    return torch.multinomial(scores_BV.softmax(dim=-1), num_samples=1)
