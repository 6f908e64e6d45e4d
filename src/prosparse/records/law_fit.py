# SPDX-License-Identifier: Apache-2.0
"""Laws fitted to measured points: what a curve's numbers are, how sure they are, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance


@dataclass(frozen=True, slots=True)
class LawParameter:
    """One number of a law."""

    name: str
    value: float
    low: float | None
    """Confidence interval; None where the points do not determine the number."""
    high: float | None


@dataclass(frozen=True, slots=True)
class LawSample:
    """One measured point and what the law says there."""

    x: float
    """In the unit of `LawFit.x_name`."""
    activation_ratio: float
    """Share of non-zero entries, 1 - sparsity, in (0, 1)."""
    weight: float
    """Inverse variance up to a common factor: the tokens behind a mean, or 1."""
    by_law: float
    """Activation ratio of the fitted law."""


@dataclass(frozen=True, slots=True)
class LawPrediction:
    """The law's curve at one place, with the confidence band of the curve (not of new points)."""

    x: float
    activation_ratio: float
    low: float | None
    high: float | None
    is_extrapolated: bool
    """Whether x lies outside the points of the fit."""


@dataclass(frozen=True, slots=True)
class LawFit:
    """One law fitted to the points of one run, or to one point of each of several."""

    name: str
    """Of the run, or of the group of runs."""
    law: str
    """`data-relu`, `data-silu`, `width-depth` or `lambda`."""
    formula: str
    x_name: str
    """What x is, with its unit."""
    source: str
    """What the points are, in words."""
    num_points: int
    points: tuple[LawSample, ...]
    """By rising x. Empty where a record may not hold them."""
    parameters: tuple[LawParameter, ...]
    r_squared: float
    """Weighted, of the quantity in which the law is fitted."""
    rms_residual: float
    """Weighted root mean square of measured minus fitted activation ratio."""
    correlation: float | None
    """Of neighboring residuals of one run, by which the intervals were widened; None: independent."""
    curve: tuple[LawPrediction, ...]
    """From the first point to beyond the last, for a plot."""
    predictions: tuple[LawPrediction, ...]
    """Where they were asked for."""
    notes: tuple[str, ...]
    """What these points cannot say, one sentence each."""

    def parameter(self, name: str) -> LawParameter:
        """Return the parameter of that name."""
        return next(found for found in self.parameters if found.name == name)


@dataclass(frozen=True, slots=True)
class LawsRecord:
    """The result of `prosparse fit`."""

    model: str
    """What was fitted, in words: one model, or the names of the runs."""
    confidence: float
    """Of all intervals, e.g. 0.95."""
    fits: tuple[LawFit, ...]
    provenance: Provenance
    kind: Literal["fit"] = "fit"
