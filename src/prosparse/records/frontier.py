# SPDX-License-Identifier: Apache-2.0
"""Finished runs side by side: sparsity against what it costs beside a dense control."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance
from prosparse.records.sparsity import Activation, DataMeasure


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One finished model: a run at its end, or with one threshold shifted."""

    run: str
    """Name of the run's folder."""
    label: str
    """`trained`, or `t = 0.02` for FATReLU with that threshold."""
    activation: Activation
    is_chosen: bool
    """Whether the run's own threshold search chose it; True where there was none."""
    factor: float
    """lambda of the last step."""
    num_tokens: int
    """Training tokens."""
    sparsity: float
    """Mean over all measured tokens, then over layers, in [0, 1]."""
    data: tuple[DataMeasure, ...]
    ratios: tuple[float, ...]
    """Perplexity over the control's, for each of `data`."""

    @property
    def ratio(self) -> float:
        """Perplexity over the control's: geometric mean over data sets."""
        return math.exp(sum(math.log(ratio) for ratio in self.ratios) / len(self.ratios))


@dataclass(frozen=True, slots=True)
class FrontierRecord:
    """The result of `prosparse frontier`."""

    model: str
    """That all runs began with."""
    control: FrontierPoint
    """What the others are held against: usually the dense model trained on the same tokens."""
    points: tuple[FrontierPoint, ...]
    """In the order of the runs as given; within a run by rising sparsity."""
    provenance: Provenance
    kind: Literal["frontier"] = "frontier"
