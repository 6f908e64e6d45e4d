# SPDX-License-Identifier: Apache-2.0
"""`fit`: fit a law to runs, with its confidence intervals, its residuals and what it cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prosparse.errors import UserError
from prosparse.laws.fitting import CurveFit, fit_curve
from prosparse.laws.forms import LAWS, LIMIT, Law
from prosparse.laws.points import Points, read_points
from prosparse.model.device import provenance
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.law_fit import LawFit, LawParameter, LawPrediction, LawSample, LawsRecord

CURVE_POINTS = 80
BEYOND = 2.0  # a plot goes this many times beyond the last point
POOR_FIT = 0.9  # R^2 below which a note says so
STRONG_CORRELATION = 0.3


def fit(
    runs: Sequence[str | Path],
    *,
    law: str = "data-relu",
    stage: str | None = None,
    least: float | None = None,
    most: float | None = None,
    at: Sequence[float] = (),
    confidence: float = 0.95,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> LawsRecord:
    """Fit a law of activation sparsity and say how sure its numbers are.

    The laws of data have one curve for each run; `width-depth` and `lambda` have one through all runs.

    Args:
        runs: Output folders of `train` or `sparsify`, or CSV tables (`tokens`, `width_depth` or `lambda`,
            `activation_ratio`, and `weight` if wanted).
        law: `data-relu`, `data-silu`, `width-depth` or `lambda`; see docs/laws.md.
        stage: For the laws of data: the stage whose points to take; lambda must not change in it.
        least: Leave out points below this x; billions of tokens for the laws of data.
        most: Leave out points above this x.
        at: Where to tell the activation ratio by the law, in units of x.
        confidence: Of all intervals, in (0, 1).
        out: Folder for `record.json`; None writes nothing.
        overwrite: Replace `out` if it exists.

    Raises:
        UserError: There is no such law, a run has not what the law needs, the points are fewer than
            the law's numbers and one, or they contradict it; scipy is not installed; `out` exists.

    Example:
        >>> import prosparse as ps
        >>> ps.fit(["runs/a"], stage="stage 0", at=[10]).fits[0].predictions
    """
    if out is not None:
        refuse_existing(Path(out), overwrite)
    if law not in LAWS:
        raise UserError(f"--law must be one of {', '.join(LAWS)}; found '{law}'.")
    if not 0 < confidence < 1:
        raise UserError(f"The confidence must be between 0 and 1; found {confidence:g}.")
    if any(not 0 < x < np.inf for x in at):
        raise UserError("--at must be above 0.")
    curves = [points.between(least, most) for points in read_points(LAWS[law], runs, stage)]
    record = LawsRecord(
        model=", ".join(dict.fromkeys(points.model for points in curves)),
        confidence=confidence,
        fits=tuple(fit_points(LAWS[law], points, at, confidence) for points in curves),
        provenance=provenance("cpu"),
    )
    if out is not None:
        with whole_folder(Path(out), overwrite) as folder:
            write_record(record, folder)
    return record


def fit_points(
    law: Law, points: Points, at: Sequence[float] = (), confidence: float = 0.95
) -> LawFit:
    """Return the fit of one curve; see `fit`."""
    needed, different = len(law.numbers) + 1, len(np.unique(points.x))
    if different < needed:
        raise UserError(
            f"{points.name}: the {law.name} law has {needed - 1} numbers, so it takes {needed} "
            f"different points or more to fit it and say how sure it is; found {different}."
        )
    try:
        found = fit_curve(law, points.x, points.activation_ratio, points.weights)
    except UserError as error:
        raise UserError(f"{points.name}: {error}") from None
    by_law = found.at(points.x)
    rest = points.activation_ratio - by_law
    samples = zip(points.x, points.activation_ratio, points.weights, by_law, strict=True)
    first, last = points.x[0], points.x[-1]
    parameters = _parameters(found, confidence)
    return LawFit(
        name=points.name,
        law=law.name,
        formula=law.formula,
        x_name=law.x_name,
        source=points.source,
        num_points=len(points.x),
        points=tuple(LawSample(*map(float, sample)) for sample in samples),
        parameters=parameters,
        r_squared=found.r_squared,
        rms_residual=float(np.sqrt(np.average(rest**2, weights=points.weights))),
        correlation=found.correlation,
        curve=_predictions(
            found, np.geomspace(first, BEYOND * last, CURVE_POINTS), points, confidence
        ),
        predictions=_predictions(found, np.array(at, dtype=float), points, confidence),
        notes=_notes(found, points, parameters),
    )


def _parameters(fit: CurveFit, confidence: float) -> tuple[LawParameter, ...]:
    reach = fit.reach(confidence)
    found = []
    for i, (number, theta) in enumerate(zip(fit.law.numbers, fit.theta, strict=True)):
        low = high = None
        if reach is not None and fit.covariance is not None:
            width = reach * float(np.sqrt(fit.covariance[i, i]))
            low, high = sorted(number.value(float(theta) + side * width) for side in (-1, 1))
        found.append(LawParameter(number.name, number.value(float(theta)), low, high))
    return tuple(found)


def _predictions(
    fit: CurveFit, x: np.ndarray, points: Points, confidence: float
) -> tuple[LawPrediction, ...]:
    if not len(x):
        return ()
    middle, band = fit.at(x), fit.band(x, confidence)
    lows, highs = ([None] * len(x),) * 2 if band is None else (list(map(float, b)) for b in band)
    inside = (x >= points.x[0]) & (x <= points.x[-1])
    return tuple(
        LawPrediction(float(where), float(value), low, high, not bool(is_inside))
        for where, value, low, high, is_inside in zip(x, middle, lows, highs, inside, strict=True)
    )


def _notes(fit: CurveFit, points: Points, parameters: tuple[LawParameter, ...]) -> tuple[str, ...]:
    notes = []
    if fit.at_bound:
        notes.append(
            f"At the end of its range: {', '.join(fit.at_bound)}. These points do not determine the law, and "
            "it has no intervals."
        )
    elif fit.covariance is None:
        notes.append(
            "Some combination of the law's numbers changes nothing at these points: they do not "
            "determine it, and it has no intervals."
        )
    limit = next((p for p in parameters if p.name == LIMIT.name and fit.law.is_series), None)
    if limit is not None:
        notes.append("A0 is where the curve tends with endless data: always an extrapolation.")
        if limit.low is not None and limit.high is not None:
            spread = float(np.ptp(points.activation_ratio))
            if limit.high - limit.low > spread:
                notes.append(
                    "The interval of A0 is wider than all that the points span: they do not say where "
                    "the activation ratio ends."
                )
    if fit.r_squared < POOR_FIT:
        notes.append(
            f"The law explains {100 * fit.r_squared:.0f} % of the variance: noise or another "
            "mechanism moves these points as well."
        )
    if fit.correlation is not None and fit.correlation > STRONG_CORRELATION:
        notes.append(
            f"Neighboring residuals are alike (correlation {fit.correlation:.2f}). The intervals are "
            "widened for it, but assume that the law's form is right; the residuals show whether it is."
        )
    return tuple(notes)
