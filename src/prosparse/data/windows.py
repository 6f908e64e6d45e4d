# SPDX-License-Identifier: Apache-2.0
"""The first tokens of a source as context windows: held-out evaluation and calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from prosparse.data.documents import documents
from prosparse.data.sources import Source
from prosparse.data.tokens import encode_documents
from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    consecutive windows. Reading stops when there is enough. Where the tokenizer begins every text with
    a token of its own (Gemma's and LLaMA's do), so does every window, in place of one more of the text:
    some models make no sense of a context that begins otherwise.

    Args:
        source: The documents.
        name: The data set's name, for messages.
        tokenizer: The model's tokenizer.
        context_length: Tokens in a window.
        num_tokens: Tokens in all windows; rounded down to whole windows, and to what is there.

    Raises:
        UserError: `num_tokens` or the source does not fill one window, or it cannot be read.
    """
    return torch.stack(list(each_window(source, name, tokenizer, context_length, num_tokens)))


def each_window(
    source: Source,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    num_tokens: int,
) -> Iterator[torch.Tensor]:
    """Yield the same windows one by one, int64 [context_length], reading only as far as needed.

    Raises:
        UserError: `num_tokens` or the source does not fill one window, or it cannot be read.
    """
    if num_tokens < context_length:
        raise UserError(
            f"--tokens must be at least one window of {context_length} tokens; found {num_tokens}."
        )
    texts = (document.text for document in documents(source, name, tokenizer))
    first = beginning(tokenizer)
    length = context_length - len(first)
    waiting: list[int] = []
    num_windows, wanted = 0, num_tokens // context_length
    for tokens in encode_documents(texts, tokenizer):
        waiting += tokens
        num_full = min(wanted - num_windows, len(waiting) // length)
        for start in range(0, num_full * length, length):
            yield torch.tensor([*first, *waiting[start : start + length]], dtype=torch.int64)
        del waiting[: num_full * length]
        num_windows += num_full
        if num_windows == wanted:
            return
    if num_windows == 0:
        raise UserError(
            f"Data set '{name}': {source.path} has {len(waiting)} tokens, fewer than one window of "
            f"{context_length}."
        )


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what the tokenizer puts before any text: its bos token, or nothing."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []
