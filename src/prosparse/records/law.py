# SPDX-License-Identifier: Apache-2.0
"""The law of lambda and sparsity, fitted to finished runs (Figure 3 of ProSparse)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance


@dataclass(frozen=True, slots=True)
class LawPoint:
    """What one finished run gives."""

    run: str
    """Name of its folder."""
    factor: float
    """lambda of its last stage, > 0."""
    sparsity: float
    """At its end, before any threshold; in (0, 1)."""


@dataclass(frozen=True, slots=True)
class LambdaLawRecord:
    """The result of `prosparse plan`: sparsity in percent = 100 - exp(a lambda^alpha + b)."""

    model: str
    points: tuple[LawPoint, ...]
    """By rising lambda."""
    a: float
    alpha: float
    b: float
    r_squared: float
    """Of the logarithm of the active share, in which the law is fitted; 1 is perfect."""
    sparsity: float
    """What was asked for, in (0, 1)."""
    factor: float
    """The lambda that gives it, by the law."""
    factor_low: float | None
    """95 % confidence interval of that lambda; None where three runs leave nothing to tell it from."""
    factor_high: float | None
    is_extrapolated: bool
    """Whether the lambda lies outside those of the runs."""
    provenance: Provenance
    kind: Literal["plan"] = "plan"

    def predicted(self, factor: float) -> float:
        """Return the sparsity, in [0, 1], that the law gives a lambda > 0."""
        return 1 - math.exp(self.a * factor**self.alpha + self.b) / 100
