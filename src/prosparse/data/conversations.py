# SPDX-License-Identifier: Apache-2.0
"""Prompts with answers packed into blocks of equal length, each a pure function of its index.

Unlike running text, a conversation is never cut in two and never sees another: a block holds whole
ones, positions start again with each, and a transformers model then lets none attend to another.
What is left of a block is padding, which counts nowhere.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from prosparse.errors import UserError

if TYPE_CHECKING:
    from prosparse.data.tokens import TokenStore

logger = logging.getLogger(__name__)

TOKEN_MASK = "token_mask"
"""Name of what is 1 where a sample holds a token and 0 where padding. It is not called
attention_mask, because no model is to be given it."""
UNLEARNED = -100
"""Label of a token that is not to be predicted."""


class PackedConversations:
    """The documents of a token store as an endless sequence of blocks of whole documents.

    Documents are taken in a seeded order, each into the block of the one before while it fits.
    Every epoch has the same blocks, in an order of its own. A document longer than a block keeps
    its beginning.

    Args:
        store: Tokenized documents whose answers are told.
        context_length: Tokens in a block.
        seed: Decides on the blocks and, together with the epoch, on their order.
        padding: Token id that fills a block.

    Raises:
        UserError: No token of the store would be learned.
    """

    def __init__(self, store: TokenStore, context_length: int, seed: int, padding: int) -> None:
        assert store.answers is not None
        self.store = store
        self.context_length = context_length
        self._seed = seed
        self._padding = padding
        self._documents = np.random.default_rng(seed).permutation(store.num_documents)
        lengths = np.diff(store.offsets)[self._documents]
        if too_long := int((lengths > context_length).sum()):
            logger.warning(
                "%d of %d documents in %s are longer than context_length %d; their ends are cut.",
                too_long,
                len(lengths),
                store.folder,
                context_length,
            )
        self._starts = block_starts(np.minimum(lengths, context_length), context_length)
        self._epoch = -1
        if not store.answers.any():
            raise UserError(f"{store.folder} holds no answer: there is nothing to learn.")

    @property
    def blocks_per_epoch(self) -> int:
        """Blocks that hold every document once."""
        return len(self._starts) - 1

    def sample(self, index: int) -> dict[str, torch.Tensor]:
        """Return block `index` >= 0 of the endless sequence, LongTensors [context_length].

        `labels` is the token where it is to be predicted, else -100; `position_ids` start at 0 in
        each document; `token_mask` is 0 where there is padding.
        """
        epoch, place = divmod(index, self.blocks_per_epoch)
        if epoch != self._epoch:  # a memo: nothing depends on it
            random = np.random.default_rng((self._seed, epoch))
            self._blocks, self._epoch = random.permutation(self.blocks_per_epoch), epoch
        block = self._blocks[place]
        ids = np.full(self.context_length, self._padding, dtype=np.int64)
        labels = np.full(self.context_length, UNLEARNED, dtype=np.int64)
        positions = np.zeros(self.context_length, dtype=np.int64)
        filled = 0
        for document in self._documents[self._starts[block] : self._starts[block + 1]]:
            tokens, is_answer = self._document(int(document))
            where = slice(filled, filled + len(tokens))
            ids[where] = tokens
            labels[where] = np.where(is_answer, tokens, UNLEARNED)
            labels[filled] = UNLEARNED  # or it would be predicted from the document before
            positions[where] = np.arange(len(tokens))
            filled += len(tokens)
        positions[filled:] = np.arange(self.context_length - filled)
        mask = np.arange(self.context_length) < filled
        parts = {"input_ids": ids, "labels": labels, "position_ids": positions, TOKEN_MASK: mask}
        return {name: torch.from_numpy(part.astype(np.int64)) for name, part in parts.items()}

    def _document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        start, end = self.store.offsets[index : index + 2]
        where = slice(start, min(end, start + self.context_length))
        assert self.store.answers is not None
        return self.store.tokens[where].astype(np.int64), self.store.answers[where] == 1


def block_starts(lengths_N: np.ndarray, context_length: int) -> np.ndarray:
    """Return where blocks begin when documents are taken in order while they fit.

    Args:
        lengths_N: Tokens of each document, 1 to context_length.
        context_length: Tokens in a block.

    Returns:
        int64 [num_blocks + 1]: the first document of each block, and N.
    """
    ends_N = np.cumsum(lengths_N)
    starts, taken = [0], 0
    while starts[-1] < len(lengths_N):
        following = int(np.searchsorted(ends_N, taken + context_length, side="right"))
        starts.append(following)
        taken = int(ends_N[following - 1])
    return np.asarray(starts, dtype=np.int64)
