# SPDX-License-Identifier: Apache-2.0
"""How many items go through a model in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prosparse.evaluation.suite import SuiteTask


@dataclass(frozen=True, slots=True)
class Batches:
    """Sizes for the two kinds of work, whose memory differs many times over."""

    scoring: int
    """Given texts: the logits of all their tokens are needed."""
    generation: int
    """Writing: the logits of one token, and a cache of keys and values."""

    def of(self, task: SuiteTask) -> int:
        """Return the size for a task; 1 for a perplexity, whose windows fill the model's context each."""
        sizes = {"generated": self.generation, "ranked": self.scoring, "none": 1}
        return sizes[task.answers]
