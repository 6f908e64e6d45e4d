# SPDX-License-Identifier: Apache-2.0
"""The four laws as functions.

Each is linear in two of its numbers once the others, its shape, are known:

    u = scale * g(x; shape) + offset,        u = A, or ln(100 A) for the law of lambda

so that a search over shapes alone, with the other two solved for, needs no initial guess. A is the
activation ratio, 1 - sparsity. Sources: Sparsing Law (Luo et al., arXiv:2411.02335) for data and width over
depth, Figure 3 of ProSparse for lambda.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

EXPONENTS = (0.01, 10.0)  # bounds of alpha: beyond them a power is a logarithm or a step


@dataclass(frozen=True, slots=True)
class Number:
    """A parameter of a law, searched for as theta on the whole line between two bounds."""

    name: str
    sign: int = 0
    """1 or -1: the number is sign * exp(theta), so it cannot change its sign; 0: it is theta itself."""
    low: float = -np.inf
    """Bounds of theta."""
    high: float = np.inf

    def value(self, theta: float) -> float:
        """Return the number itself."""
        return theta if self.sign == 0 else self.sign * float(np.exp(min(theta, 700.0)))


@dataclass(frozen=True, slots=True)
class Law:
    """A law, ready to be fitted. `theta` has one entry for each of `numbers`, in their order."""

    name: str
    formula: str
    x_name: str
    numbers: tuple[Number, ...]
    curve: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """u of x and theta."""
    shape: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """g of x and the shape's thetas."""
    shapes: Callable[[float], list[np.ndarray]]
    """The shapes to search, given the largest x."""
    assemble: Callable[[np.ndarray, float, float], np.ndarray]
    """theta of shape, scale and offset."""
    scale_sign: int = 0
    """1 or -1 where the law rises or falls with g by its nature."""
    trend: str = ""
    """What it says of the activation ratio, in words, for refusals."""
    is_logarithmic: bool = False
    is_series: bool = False
    """Whether its points are the course of one run, whose neighbors are alike."""

    def to_fit(self, activation_ratio: np.ndarray) -> np.ndarray:
        """Return u of A."""
        return np.log(100 * activation_ratio) if self.is_logarithmic else activation_ratio

    def from_fit(self, fitted: np.ndarray) -> np.ndarray:
        """Return A of u."""
        return np.exp(fitted) / 100 if self.is_logarithmic else fitted


ALPHA = Number("alpha", 1, *np.log(EXPONENTS))
LIMIT = Number("A0", 0, 0.0, 1.0)
_ALPHAS = np.log(np.geomspace(0.02, 6, 40))
_TOKENS = "training data D (billions of tokens)"


def _relu_shapes(largest: float) -> list[np.ndarray]:
    reach = np.log(np.geomspace(0.02, 60, 40))  # of c D^alpha at the last point
    return [
        np.array([k - np.exp(alpha) * np.log(largest), alpha])
        for k, alpha in product(reach, _ALPHAS)
    ]


def _powers(largest: float) -> list[np.ndarray]:
    return [np.array([alpha]) for alpha in _ALPHAS]


def _decay(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.exp(-np.exp(np.minimum(shape[0] + np.exp(shape[1]) * np.log(x), 50)))


DATA_RELU = Law(
    name="data-relu",
    formula="A(D) = exp(-c D^alpha + b) + A0",
    x_name=_TOKENS,
    numbers=(Number("c", 1), ALPHA, Number("b"), LIMIT),
    curve=lambda x, theta: np.exp(np.minimum(theta[2], 700)) * _decay(x, theta[:2]) + theta[3],
    shape=_decay,
    shapes=_relu_shapes,
    assemble=lambda shape, scale, offset: np.array([*shape, np.log(scale), offset]),
    scale_sign=1,
    trend="falls with training data (ReLU models)",
    is_series=True,
)
DATA_SILU = Law(
    name="data-silu",
    formula="A(D) = -c / D^alpha + A0",
    x_name=_TOKENS,
    numbers=(Number("c", 1), ALPHA, LIMIT),
    curve=lambda x, theta: -np.exp(theta[0]) * x ** -np.exp(theta[1]) + theta[2],
    shape=lambda x, shape: x ** -np.exp(shape[0]),
    shapes=_powers,
    assemble=lambda shape, scale, offset: np.array([np.log(-scale), *shape, offset]),
    scale_sign=-1,
    trend="rises with training data (SiLU models)",
    is_series=True,
)
WIDTH_DEPTH = Law(
    name="width-depth",
    formula="A = k d_model / layers + A0",
    x_name="width over depth (d_model / layers)",
    numbers=(Number("k"), Number("A0")),
    curve=lambda x, theta: theta[0] * x + theta[1],
    shape=lambda x, shape: x,
    shapes=lambda largest: [np.array([])],
    assemble=lambda shape, scale, offset: np.array([scale, offset]),
)
LAMBDA = Law(
    name="lambda",
    formula="100 A = exp(a lambda^alpha + b)",
    x_name="lambda of the last stage",
    numbers=(Number("a", -1), ALPHA, Number("b")),
    curve=lambda x, theta: -np.exp(theta[0]) * x ** np.exp(theta[1]) + theta[2],
    shape=lambda x, shape: x ** np.exp(shape[0]),
    shapes=_powers,
    assemble=lambda shape, scale, offset: np.array([np.log(-scale), *shape, offset]),
    scale_sign=-1,
    trend="falls with lambda",
    is_logarithmic=True,
)
LAWS = {law.name: law for law in (DATA_RELU, DATA_SILU, WIDTH_DEPTH, LAMBDA)}
