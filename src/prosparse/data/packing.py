# SPDX-License-Identifier: Apache-2.0
"""Documents packed into blocks of equal length, each a pure function of its index.

An epoch is all documents in a seeded permutation of their order, laid end to end and cut into
blocks of `context_length` tokens. Only the permutation and the places where its documents end are
ever computed; a block is then found by binary search and read from the memory-mapped store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from prosparse.errors import UserError

if TYPE_CHECKING:
    from prosparse.data.tokens import TokenStore


class PackedDocuments:
    """The documents of a token store as an endless sequence of blocks.

    Every token of an epoch is in exactly one block, except for the last few that fill no block;
    another epoch's permutation leaves out others. A document's tokens follow one another in order,
    across the border of blocks if need be.

    Args:
        store: The tokenized documents.
        context_length: Tokens in a block.
        seed: Decides, together with the epoch, on the permutation.
        shuffle: False keeps the documents in their order on disk, the same in every epoch.

    Raises:
        UserError: The store does not fill one block.
    """

    def __init__(
        self, store: TokenStore, context_length: int, seed: int, shuffle: bool = True
    ) -> None:
        self.store = store
        self.context_length = context_length
        self.blocks_per_epoch = store.num_tokens // context_length
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = -1
        if self.blocks_per_epoch == 0:
            raise UserError(
                f"{store.folder} has {store.num_tokens} tokens, fewer than one block of "
                f"{context_length}: give more data or a smaller context_length."
            )

    def sample(self, index: int) -> dict[str, torch.Tensor]:
        """Return block `index` as `input_ids` and `labels`, the same LongTensor."""
        tokens = torch.from_numpy(self.block(index))
        return {"input_ids": tokens, "labels": tokens}

    def block(self, index: int) -> np.ndarray:
        """Return block `index` >= 0 of the endless sequence, int64 [context_length]."""
        epoch, position = divmod(index, self.blocks_per_epoch)
        order, ends = self._layout(epoch)
        block = np.empty(self.context_length, dtype=np.int64)
        start = position * self.context_length
        place = int(np.searchsorted(ends, start, side="right"))
        filled = 0
        while filled < self.context_length:
            document = self.store.document(order[place])
            # Only the first document can have begun in an earlier block.
            left = int(ends[place]) - (start + filled)
            piece = document[len(document) - left :][: self.context_length - filled]
            block[filled : filled + len(piece)] = piece
            filled += len(piece)
            place += 1
        return block

    def _layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the epoch's document order and, in that order, where each document ends.

        Both are int64 [num_documents]. Blocks are mostly asked for epoch by epoch, so the last
        answer is kept; it is a memo and nothing depends on it.
        """
        if epoch != self._epoch:
            random = np.random.default_rng((self._seed, epoch))
            count = self.store.num_documents
            self._order = random.permutation(count) if self._shuffle else np.arange(count)
            self._ends = np.cumsum(np.diff(self.store.offsets)[self._order])
            self._epoch = epoch
        return self._order, self._ends
