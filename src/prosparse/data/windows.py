# SPDX-License-Identifier: Apache-2.0
"""The first tokens of a source as context windows: held-out evaluation and calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from prosparse.data.documents import documents
from prosparse.data.sources import Source
from prosparse.data.tokens import encode_documents
from prosparse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def windows(
    source: Source,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    num_tokens: int,
) -> torch.Tensor:
    """Return the first documents of `source` as windows, int64 [num_windows, context_length].

    The documents are taken in file order, a separator after each, laid end to end and cut into
    consecutive windows. Reading stops when there is enough.

    Args:
        source: The documents.
        name: The data set's name, for messages.
        tokenizer: The model's tokenizer.
        context_length: Tokens in a window.
        num_tokens: Tokens in all windows; rounded down to whole windows, and to what is there.

    Raises:
        UserError: `num_tokens` or the source does not fill one window, or it cannot be read.
    """
    if num_tokens < context_length:
        raise UserError(
            f"--tokens must be at least one window of {context_length} tokens; found {num_tokens}."
        )
    pieces, available = [], 0
    texts = (document.text for document in documents(source, name, tokenizer))
    for tokens in encode_documents(texts, tokenizer):
        pieces.append(np.asarray(tokens, dtype=np.int64))
        available += len(tokens)
        if available >= num_tokens:
            break
    num_windows = min(num_tokens, available) // context_length
    if num_windows == 0:
        raise UserError(
            f"Data set '{name}': {source.path} has {available} tokens, fewer than one window of "
            f"{context_length}."
        )
    taken = np.concatenate(pieces)[: num_windows * context_length]
    return torch.from_numpy(taken).view(num_windows, context_length)
