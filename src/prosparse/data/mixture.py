# SPDX-License-Identifier: Apache-2.0
"""Named, weighted components mixed into one training stream that is a function of the index.

Which component a sample comes from, and which of its blocks it is, are computed from the sample's
index alone. So a run that was interrupted goes on exactly where it stopped knowing only its step,
and any number of processes sees the same stream: nothing about it is state.

The components are spread evenly, not drawn at random: block j of a component with share w is due
at place (j + 1/2) / w of the stream, and blocks are taken in the order in which they are due.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from prosparse.data.conversations import PackedConversations
from prosparse.data.packing import PackedDocuments
from prosparse.data.sources import Source, local_files
from prosparse.data.tokens import TokenStore, separator_id, tokenize
from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_EPOCHS = 4
"""Up to four repetitions are nearly as good as new data (Muennighoff et al., arXiv:2305.16264)."""


@dataclass(frozen=True, slots=True)
class Component(Source):
    """A source and how much of the training stream comes from it."""

    weight: float | None = None
    """Share of the samples, relative to the other components' weights; None for all components
    means in proportion to their tokens."""

    def __post_init__(self) -> None:
        Source.__post_init__(self)
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise UserError(f"weight must be greater than 0; found {self.weight}.")


class Mixture(Dataset[dict[str, torch.Tensor]]):
    """The training samples: blocks of packed documents from every component, evenly mixed.

    After any number n of samples, each of C >= 2 components has given its share of n to within
    (C - 1) / 2 blocks.

    Args:
        packed: The components' blocks, all of one context length.
        weights: Each component's weight, > 0, in any scale.
        num_samples: Samples in the whole run. It only ends the stream: a longer one begins alike.
    """

    def __init__(
        self,
        packed: Mapping[str, PackedDocuments | PackedConversations],
        weights: dict[str, float],
        num_samples: int,
    ) -> None:
        self.packed = packed
        self.num_samples = num_samples
        total = sum(weights.values())
        self.shares = {name: weights[name] / total for name in packed}

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return the block that is sample `index`: what the model gets, LongTensors."""
        name, block = self.place(index)
        return self.packed[name].sample(block)

    def component_of(self, index: int) -> str:
        """Return the name of the component that sample `index` comes from."""
        return self.place(index)[0]

    def place(self, index: int) -> tuple[str, int]:
        """Return the component that sample `index` comes from, and which of its blocks it is.

        By place T of the stream, floor(w T + 1/2) blocks of a component are due: at most half a
        block more or less than w T. So sample `index` is due at most half the number of components
        away from `index`, and only the few blocks due thereabouts need be put in order.

        Raises:
            IndexError: `index` is not in [0, num_samples).
        """
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples}")
        shares = np.array(list(self.shares.values()))
        reach = len(shares) / 2 + 1  # one more than needed, so that rounding cannot matter
        first = np.floor(np.maximum(index - reach, 0) * shares).astype(np.int64)
        blocks = first[:, None] + np.arange(math.ceil(2 * reach * shares.max()) + 2)
        due = (blocks + 0.5) / shares[:, None]
        # All blocks before `first` are taken. Equal due times go by the order of components.
        nth = np.argsort(due, axis=None, kind="stable")[index - first.sum()]
        component, column = np.unravel_index(nth, due.shape)
        return list(self.shares)[component], int(blocks[component, column])


def build_mixture(
    components: dict[str, Component],
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    num_samples: int,
    folder: Path,
    seed: int,
    progress: bool = True,
    answers_only: bool = False,
    is_shared: bool = False,
) -> Mixture:
    """Return the training stream of `components`, tokenizing what has not been tokenized yet.

    Local files are tokenized whole. A hub data set is read from its beginning, as far as the run
    can need: its share of the samples, or all of them when no weights are given.

    Args:
        components: The named sources, in the order that breaks ties.
        tokenizer: The model's tokenizer.
        context_length: Tokens in a sample.
        num_samples: Samples in the whole run.
        folder: Where each component gets its token store, `folder/<name>`.
        seed: Of the document order.
        progress: Whether to show progress bars.
        answers_only: Whether to learn answers alone, from whole documents that do not see one
            another; else every token of running text is learned.
        is_shared: Whether other runs may be reading the token stores.

    Raises:
        UserError: There is no component, only some have a weight, or one cannot be read.
    """
    weights = _given_weights(components)

    def pack(store: TokenStore) -> PackedDocuments | PackedConversations:
        if answers_only:
            return PackedConversations(store, context_length, seed, separator_id(tokenizer))
        return PackedDocuments(store, context_length, seed)

    packed = {}
    for name, component in components.items():
        share = weights[name] / sum(weights.values()) if weights else 1.0
        needed = math.ceil(share * num_samples) + len(components)  # the mixture's rounding
        is_local = local_files(component, name) is not None
        max_tokens = None if is_local else needed * context_length
        packed[name] = pack(
            tokenize(
                component,
                name,
                tokenizer,
                folder / name,
                max_tokens,
                progress,
                answers_only,
                is_shared,
            )
        )
    if weights is None:
        weights = {name: float(blocks.store.num_tokens) for name, blocks in packed.items()}
    mixture = Mixture(packed, weights, num_samples)
    for name, share in mixture.shares.items():
        epochs = share * num_samples / packed[name].blocks_per_epoch
        if epochs > MAX_EPOCHS:
            logger.warning(
                "Data component '%s' has %d tokens and will be repeated for %.1f epochs; more than "
                "%d do little good. Give more data, a smaller weight or fewer steps.",
                name,
                packed[name].store.num_tokens,
                epochs,
                MAX_EPOCHS,
            )
    return mixture


def _given_weights(components: dict[str, Component]) -> dict[str, float] | None:
    """Return the weights, or None when no component has one."""
    if not components:
        raise UserError("There are no data components: name at least one, with its path.")
    given = {name: c.weight for name, c in components.items() if c.weight is not None}
    if given and len(given) < len(components):
        lacking = ", ".join(name for name in components if name not in given)
        raise UserError(
            f"Either all data components have a weight or none has; these have none: {lacking}."
        )
    return given or None
