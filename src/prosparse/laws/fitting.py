# SPDX-License-Identifier: Apache-2.0
"""Least squares under a law, and how far its result can be trusted.

The intervals are Student's, from the linearized law at the optimum (Wald intervals). A number of fixed
sign has a symmetric interval in its logarithm. Residuals of one run resemble their neighbors;
with correlation r between neighbors the standard errors are multiplied by sqrt((1 + r) / (1 - r)),
which is what a first-order autoregression does to a slowly varying fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prosparse.errors import UserError
from prosparse.laws.forms import Law

NUM_STARTS = 3  # of the search's best shapes, how many are refined
SMALLEST_SINGULAR = (
    1e-9  # over the largest one of the scaled Jacobian: below, nothing is determined
)
AT_BOUND = 1e-6


@dataclass(frozen=True, slots=True)
class CurveFit:
    """A law at its least squares."""

    law: Law
    theta: np.ndarray
    covariance: np.ndarray | None
    """Of theta, for independent residuals widened by `correlation`; None where it is not determined."""
    spare: int
    """Points minus numbers."""
    r_squared: float
    correlation: float | None
    at_bound: tuple[str, ...]
    """Names of the numbers that stand at the end of their range."""

    def reach(self, confidence: float) -> float | None:
        """Return how many standard errors an interval reaches to each side."""
        from scipy.stats import t as student

        return (
            None
            if self.covariance is None
            else float(student.ppf((1 + confidence) / 2, self.spare))
        )

    def at(self, x: np.ndarray) -> np.ndarray:
        """Return the activation ratio at x."""
        return self.law.from_fit(self.law.curve(x, self.theta))

    def band(self, x: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the confidence band of the curve at x, or None where it is not determined."""
        reach = self.reach(confidence)
        if reach is None or self.covariance is None:
            return None
        slope = _jacobian(self.law, x, self.theta)
        error = np.sqrt(np.einsum("ij,jk,ik->i", slope, self.covariance, slope).clip(min=0))
        middle = self.law.curve(x, self.theta)
        low, high = (self.law.from_fit(middle + side * reach * error) for side in (-1, 1))
        return low, high


def fit_curve(
    law: Law, x: np.ndarray, activation_ratio: np.ndarray, weights: np.ndarray | None = None
) -> CurveFit:
    """Return the least squares of a law over all its shapes.

    Args:
        law: One of `forms.LAWS`.
        x: [points], > 0, finite, by rising x where the law is of a series.
        activation_ratio: [points], in (0, 1).
        weights: [points], > 0, inverse variances up to a common factor; None for equal ones.

    Raises:
        UserError: There are fewer different x than numbers, the points do not vary, they go the
            other way, or scipy is not installed.
    """
    weights = np.ones_like(x) if weights is None else weights / weights.mean()
    u, root = law.to_fit(activation_ratio), np.sqrt(weights)
    _refuse_hopeless(law, x, u)
    theta = _least_squares(law, x, u, weights)
    rest = root * (law.curve(x, theta) - u)
    correlation = _correlation(rest) if law.is_series else None
    at_bound = tuple(
        number.name
        for number, value in zip(law.numbers, theta, strict=True)
        if value in (number.low, number.high)
    )
    spare = len(x) - len(theta)
    covariance = None
    if spare > 0 and not at_bound:
        covariance = _covariance(root[:, None] * _jacobian(law, x, theta), rest, spare)
    if covariance is not None and correlation is not None:
        covariance = covariance * (1 + correlation) / (1 - correlation)
    spread = float((weights * (u - np.average(u, weights=weights)) ** 2).sum())
    r_squared = 1 - float(rest @ rest) / spread
    return CurveFit(law, theta, covariance, spare, r_squared, correlation, at_bound)


def _least_squares(law: Law, x: np.ndarray, u: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return theta, refined from the best shapes of the search; bounds that it reaches, exactly."""
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise UserError("Fitting a law needs scipy: pip install 'prosparse[laws]'.") from None
    root = np.sqrt(weights)
    low = np.array([number.low for number in law.numbers])
    high = np.array([number.high for number in law.numbers])
    found = [
        least_squares(
            lambda theta: root * (law.curve(x, theta) - u),
            start.clip(low, high),
            jac=lambda theta: root[:, None] * _jacobian(law, x, theta),
            bounds=(low, high), x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=2000,
        )
        for start in _starts(law, x, u, weights)
    ]  # fmt: skip
    theta = min(found, key=lambda result: result.cost).x
    return np.where(theta - low < AT_BOUND, low, np.where(high - theta < AT_BOUND, high, theta))


def _refuse_hopeless(law: Law, x: np.ndarray, u: np.ndarray) -> None:
    num_numbers, different = len(law.numbers), len(np.unique(x))
    if different < num_numbers:
        raise UserError(
            f"The {law.name} law has {num_numbers} numbers to fit, so it needs as many different "
            f"points; found {different}."
        )
    if np.ptp(u) == 0:
        raise UserError("The activation ratio is the same at every point: there is no law to find.")


def _starts(law: Law, x: np.ndarray, u: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Return the best shapes of the search, with the scale and offset that go with each.

    The offset is kept in its range (the last number's), as A0 must be.
    """
    shapes = law.shapes(float(x.max()))
    g = np.stack([law.shape(x, shape) for shape in shapes])
    share = weights / weights.sum()
    away_g, away_u = g - (g @ share)[:, None], u - u @ share
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = (away_g * away_u) @ share / (away_g**2 @ share)
        offset = (u @ share - scale * (g @ share)).clip(law.numbers[-1].low, law.numbers[-1].high)
        scale = ((g * (u - offset[:, None])) @ share) / (
            g**2 @ share
        )  # again, for a clipped offset
        error = ((scale[:, None] * g + offset[:, None] - u) ** 2) @ share
    allowed = np.isfinite(error) & ((law.scale_sign * scale > 0) if law.scale_sign else True)
    if not allowed.any():
        raise UserError(
            f"The {law.name} law says that the activation ratio {law.trend}; these points go the "
            "other way."
        )
    best = np.argsort(np.where(allowed, error, np.inf))[: min(NUM_STARTS, int(allowed.sum()))]
    return [law.assemble(shapes[i], scale[i], offset[i]) for i in best]


def _jacobian(law: Law, x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return [points, numbers], the derivatives of u with respect to theta (central differences)."""
    columns = []
    for i, value in enumerate(theta):
        step = np.zeros_like(theta)
        step[i] = 6e-6 * max(1.0, abs(value))  # the cube root of the rounding: smallest error
        columns.append((law.curve(x, theta + step) - law.curve(x, theta - step)) / (2 * step[i]))
    return np.stack(columns, axis=1)


def _covariance(jacobian: np.ndarray, rest: np.ndarray, spare: int) -> np.ndarray | None:
    """Return s^2 (J^T J)^-1, or None where some combination of the numbers changes nothing."""
    size = np.linalg.norm(jacobian, axis=0)
    if not (np.isfinite(size).all() and size.all()):
        return None
    _, singular, rows = np.linalg.svd(jacobian / size, full_matrices=False)
    if singular[-1] < SMALLEST_SINGULAR * singular[0]:
        return None
    inverse = (rows.T / singular**2) @ rows / np.outer(size, size)
    return inverse * float(rest @ rest) / spare


def _correlation(rest: np.ndarray) -> float:
    """Return the correlation of neighboring residuals, 0 where it is negative."""
    total = float(rest @ rest)
    return max(0.0, float(rest[1:] @ rest[:-1]) / total) if total > 0 else 0.0
