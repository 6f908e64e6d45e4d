# SPDX-License-Identifier: Apache-2.0
"""Laws are found again from their points, whatever their numbers, with intervals that cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

import prosparse as ps
from prosparse.laws.fitting import _correlation, _jacobian, fit_curve
from prosparse.laws.forms import DATA_RELU, DATA_SILU, LAMBDA, LAWS, WIDTH_DEPTH

TOKENS = np.linspace(0.8, 42, 28)
RELU = np.array([np.log(0.286), np.log(0.449), -3.05, 0.0674])  # 0.2B of Sparsing Law
SILU = np.array([np.log(0.208), np.log(0.844), 0.390])
LINE = np.array([0.0004, 0.06])
FIGURE_3 = np.array([np.log(1.76), np.log(0.30), 3.49])
KNOWN = [
    (DATA_RELU, TOKENS, RELU),
    (DATA_SILU, TOKENS, SILU),
    (WIDTH_DEPTH, np.linspace(10, 120, 12), LINE),
    (LAMBDA, np.geomspace(0.01, 0.5, 10), FIGURE_3),
]


def numbers(law, theta):
    return [number.value(t) for number, t in zip(law.numbers, theta, strict=True)]


def bare_noise(law, x, theta, size, seed):
    """Noise that no change of the law's numbers explains: the truth stays the least squares."""
    jacobian = _jacobian(law, x, theta)
    noise = np.random.default_rng(seed).normal(0, size, len(x))
    q, _ = np.linalg.qr(jacobian / np.linalg.norm(jacobian, axis=0))
    return noise - q @ (q.T @ noise)


def interval(fit, confidence):
    error = np.sqrt(np.diag(fit.covariance)) * fit.reach(confidence)
    return fit.theta - error, fit.theta + error


@pytest.mark.parametrize(("law", "x", "truth"), KNOWN, ids=lambda v: getattr(v, "name", ""))
def test_a_law_is_found_again_from_points_without_noise(law, x, truth):
    fit = fit_curve(law, x, law.from_fit(law.curve(x, truth)))
    assert numbers(law, fit.theta) == pytest.approx(numbers(law, truth), rel=1e-4)
    assert fit.r_squared == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("law", "x", "truth"), KNOWN, ids=lambda v: getattr(v, "name", ""))
def test_the_derivatives_are_those_of_the_curve(law, x, truth):
    for i in range(len(truth)):
        step = np.eye(len(truth))[i] * 1e-4
        slope = (law.curve(x, truth + step) - law.curve(x, truth - step)) / 2e-4
        assert _jacobian(law, x, truth)[:, i] == pytest.approx(slope, rel=1e-4, abs=1e-9)


def check(law, x, theta, seed, size=1e-4):
    noise = bare_noise(law, x, theta, size, seed)
    fit = fit_curve(law, x, law.from_fit(law.curve(x, theta) + noise))
    assert fit.covariance is not None
    low, high = interval(fit, 0.99)
    assert (low <= theta).all()
    assert (theta <= high).all()
    exact = fit_curve(law, x, law.from_fit(law.curve(x, theta)))
    assert exact.r_squared > 1 - 1e-6


@settings(deadline=None, max_examples=40)
@given(
    reach=st.floats(1, 5), alpha=st.floats(0.3, 2), scale=st.floats(0.02, 0.2),
    limit=st.floats(0.03, 0.3), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_relu_law_lies_in_its_interval(reach, alpha, scale, limit, seed):
    c = reach / TOKENS[-1] ** alpha
    check(DATA_RELU, TOKENS, np.array([np.log(c), np.log(alpha), np.log(scale), limit]), seed, 1e-5)


@settings(deadline=None, max_examples=40)
@given(
    c=st.floats(0.03, 0.25), alpha=st.floats(0.2, 1.5), limit=st.floats(0.35, 0.6),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_any_silu_law_lies_in_its_interval(c, alpha, limit, seed):
    check(DATA_SILU, TOKENS, np.array([np.log(c), np.log(alpha), limit]), seed)


@settings(deadline=None, max_examples=20)
@given(k=st.floats(-1e-3, 1e-3), offset=st.floats(0.2, 0.6), seed=st.integers(0, 99))
def test_any_line_lies_in_its_interval(k, offset, seed):
    if abs(k) > 1e-5:
        check(WIDTH_DEPTH, np.linspace(10, 120, 12), np.array([k, offset]), seed)


def test_the_line_is_that_of_ordinary_least_squares():
    from scipy.stats import linregress

    x, generator = np.linspace(10, 120, 12), np.random.default_rng(1)
    y = WIDTH_DEPTH.curve(x, LINE) + generator.normal(0, 0.003, 12)
    fit, known = fit_curve(WIDTH_DEPTH, x, y), linregress(x, y)
    assert fit.theta == pytest.approx([known.slope, known.intercept], rel=1e-7)
    errors = np.sqrt(np.diag(fit.covariance))
    assert errors == pytest.approx([known.stderr, known.intercept_stderr], rel=1e-6)
    assert fit.r_squared == pytest.approx(known.rvalue**2)
    low, high = fit.band(np.array([60.0]), 0.95)
    center = x.mean()
    error = np.hypot(
        known.stderr * (60 - center), np.sqrt((fit.at(x) - y) @ (fit.at(x) - y) / 10 / 12)
    )
    assert (high - low) / 2 == pytest.approx(student.ppf(0.975, 10) * error, rel=1e-5)


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_the_interval_of_the_limit_covers_about_as_often_as_it_says(memory):
    generator, covered, trials = np.random.default_rng(0), 0, 150
    x = np.linspace(0.8, 42, 80)
    for _ in range(trials):
        noise = generator.normal(0, 2e-4, len(x))
        for i in range(1, len(x)):
            noise[i] += memory * noise[i - 1]
        fit = fit_curve(DATA_SILU, x, DATA_SILU.curve(x, SILU) + noise)
        low, high = interval(fit, 0.95)
        covered += bool(low[-1] <= SILU[-1] <= high[-1])
    assert 0.88 <= covered / trials <= 0.99


def test_correlation_by_hand():
    assert _correlation(np.array([1.0, 1, -1, -1])) == pytest.approx(1 / 4)
    assert _correlation(np.array([1.0, -1, 1, -1])) == 0


def test_a_weight_is_a_repeated_point():
    y = DATA_SILU.curve(TOKENS, SILU) + np.random.default_rng(0).normal(0, 1e-3, len(TOKENS))
    weights = np.ones(len(TOKENS))
    weights[5] = 3
    weighted = fit_curve(DATA_SILU, TOKENS, y, weights)
    repeated = np.sort(np.concatenate([np.arange(len(TOKENS)), [5, 5]]))
    assert weighted.theta == pytest.approx(
        fit_curve(DATA_SILU, TOKENS[repeated], y[repeated]).theta, rel=1e-5
    )
    assert weighted.theta != pytest.approx(fit_curve(DATA_SILU, TOKENS, y).theta, rel=1e-5)


def test_a_limit_below_zero_is_held_at_zero_and_has_no_interval():
    y = np.exp(-0.01 * TOKENS**1.2 + np.log(0.5)) - 0.05
    fit = fit_curve(DATA_RELU, TOKENS, y)
    assert "A0" in fit.at_bound
    assert fit.theta[-1] == pytest.approx(0, abs=1e-6)
    assert fit.covariance is None
    assert fit.band(TOKENS, 0.95) is None


def test_points_that_rise_and_fall_are_fitted_where_the_trend_is_right():
    y = DATA_RELU.curve(TOKENS, RELU)
    y[::2] += 0.001
    y[1::2] -= 0.001
    fit = fit_curve(DATA_RELU, TOKENS, y)
    assert 0.8 < fit.r_squared < 0.999


@pytest.mark.parametrize("law", [DATA_RELU, DATA_SILU, LAMBDA])
def test_points_that_go_the_other_way_are_refused(law):
    y = np.linspace(0.2, 0.4, len(TOKENS))
    with pytest.raises(ps.UserError, match="go the other way"):
        fit_curve(law, TOKENS, y[::-1] if law is DATA_SILU else y)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_too_few_or_equal_points_are_refused(law):
    needed = len(law.numbers)
    x = np.arange(1.0, needed)
    with pytest.raises(ps.UserError, match=f"has {needed} numbers to fit.* found {needed - 1}"):
        fit_curve(law, x, np.linspace(0.4, 0.3, needed - 1))
    with pytest.raises(ps.UserError, match="same at every point"):
        fit_curve(law, TOKENS, np.full(len(TOKENS), 0.3))
