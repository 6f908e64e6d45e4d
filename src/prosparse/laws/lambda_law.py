# SPDX-License-Identifier: Apache-2.0
"""Which last-stage lambda gives a wanted sparsity: the law of Figure 3 (Section 4.4, Q2 of ProSparse).

Runs of one model that differ in their last-stage lambda alone end at sparsities that follow

    sparsity = 100 - exp(a lambda^alpha + b)    (in percent; the paper: a = -1.76, alpha = 0.30, b = 3.49)

so three of them determine the law, and each one more says how far to trust it. One may have lambda 0, ReLU
alone: the law goes on to there, as the paper's does (100 - exp(3.49) = 67.2; it measured 66.98). The fit is to the
logarithm of the active share, 100 - sparsity: near 90 % a point of sparsity is a tenth of what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prosparse.errors import UserError
from prosparse.laws.fitting import fit_curve
from prosparse.laws.forms import LAMBDA
from prosparse.laws.points import training_record
from prosparse.model.device import provenance
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.law import LambdaLawRecord, LawPoint
from prosparse.records.run import TrainRecord

CONFIDENCE = 0.95


def plan(
    runs: Sequence[str | Path],
    *,
    sparsity: float,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> LambdaLawRecord:
    """Fit the law to finished runs and return the last-stage lambda for a wanted sparsity.

    Args:
        runs: Output folders of `train` or `sparsify`, three or more with different last-stage lambdas;
            0 may be one.
        sparsity: Wanted at the end of training, before any threshold; in (0, 1).
        out: Folder for `record.json`; None writes nothing.
        overwrite: Replace `out` if it exists.

    Returns:
        The record, with the interval in which that lambda lies with 95 % confidence.

    Raises:
        UserError: A folder is no run with measured sparsity, the runs do not go together or are too
            few, no lambda gives the sparsity, scipy is not installed, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> ps.plan(["runs/a", "runs/b", "runs/c", "runs/d"], sparsity=0.89).factor
    """
    if out is not None:
        refuse_existing(Path(out), overwrite)
    if not 0 < sparsity < 1:
        raise UserError(f"--sparsity must be between 0 and 1; found {sparsity:g}.")
    model, points = _read(runs)
    record = fit(model, points, sparsity)
    if out is not None:
        with whole_folder(Path(out), overwrite) as folder:
            write_record(record, folder)
    return record


def fit(model: str, points: Sequence[LawPoint], sparsity: float) -> LambdaLawRecord:
    """Return the law of some points and the lambda for a sparsity; see `plan`."""
    points = sorted(points, key=lambda point: point.factor)
    factors = np.array([point.factor for point in points])
    if len(set(factors)) < 3:
        raise UserError(
            f"The law has three numbers to fit, so it needs three different last-stage lambdas; found "
            f"{len(set(factors))}."
        )
    found = fit_curve(LAMBDA, factors, 1 - np.array([point.sparsity for point in points]))
    a, alpha, b = (n.value(float(t)) for n, t in zip(LAMBDA.numbers, found.theta, strict=True))
    power = (np.log(100 * (1 - sparsity)) - b) / a  # lambda^alpha
    if power <= 0:
        raise UserError(
            f"By the law of these runs (a {a:.3g}, alpha {alpha:.3g}, b {b:.3g}) no lambda gives "
            f"{sparsity:.2%} sparsity; the least is {1 - np.exp(b) / 100:.2%}, at lambda 0."
        )
    factor = power ** (1 / alpha)
    interval: tuple[float | None, float | None] = (None, None)
    reach = found.reach(CONFIDENCE)
    if reach is not None and found.covariance is not None:
        # Of ln lambda, by its derivatives with respect to ln -a, ln alpha and b.
        slope = np.array([-1 / alpha, -np.log(factor), -1 / (alpha * a * power)])
        error = float(np.sqrt(slope @ found.covariance @ slope))
        interval = float(factor * np.exp(-reach * error)), float(factor * np.exp(reach * error))
    return LambdaLawRecord(
        model=model,
        points=tuple(points),
        a=a,
        alpha=alpha,
        b=b,
        r_squared=found.r_squared,
        sparsity=sparsity,
        factor=float(factor),
        factor_low=interval[0],
        factor_high=interval[1],
        is_extrapolated=not factors[0] <= factor <= factors[-1],
        provenance=provenance("cpu"),
    )


def _read(runs: Sequence[str | Path]) -> tuple[str, list[LawPoint]]:
    """Return the model that all runs began with, and their points."""
    training = {str(run): training_record(Path(run)) for run in runs}
    if not training:
        raise UserError("No run was named; give the output folders of three finished runs or more.")
    for key in ("model", "normalization", "reference_tokens"):
        values = {name: _setting(record, key) for name, record in training.items()}
        if len(set(values.values())) > 1:
            (first, one), (other, another) = _differing(values)
            raise UserError(
                f"The runs do not go together: {key} is {one} in {first} and {another} in {other}."
            )
    points = []
    for name, record in training.items():
        last = record.milestones[-1] if record.milestones else None
        if last is None or not 0 < last.sparsity < 1:
            raise UserError(
                f"{name} has no measured sparsity; give its recipe a 'measure' section."
            )
        points.append(LawPoint(Path(name).name, last.factor, last.sparsity))
    return next(iter(training.values())).model, points


def _setting(record: TrainRecord, key: str) -> str:
    return str(record.model if key == "model" else record.recipe["regularization"].get(key))


def _differing(values: dict[str, str]) -> tuple[tuple[str, str], tuple[str, str]]:
    items = list(values.items())
    return items[0], next(item for item in items if item[1] != items[0][1])
