# SPDX-License-Identifier: Apache-2.0
"""Counts of the active entries of x_1, in as few looks at it as there are questions.

An entry is active when it is not zero; NaN is not zero. On a GPU each operator is one pass over x_1:
measured models are small, and a mask in memory would cost more than their FFN. What they compute is
written in `prosparse.kernels.reference`; counts are exact. B windows of S tokens, F = d_ff.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from prosparse.kernels.backend import training_implementation
from prosparse.kernels.registration import operator

SPAN_SIZES = (1, 2, 4, 8, 16, 32)
"""Consecutive tokens whose unions are counted."""
NUM_EXPONENTS = 256
"""Values of a float32's exponent, 8 bits that hold 127 for 1 <= |x| < 2."""


class Activity(NamedTuple):
    """What `count_activity` returns."""

    by_token: Tensor
    """Active neurons of each token, int32 [B, S]."""
    with_next: Tensor
    """Neurons active for a token and for the next one of its window, int32 [B, S - 1]."""
    by_neuron: Tensor
    """Tokens on which a neuron is active, int32 [F]."""
    by_span: Tensor
    """Neurons that some token of a group needs, summed over the groups, int64 [K].

    For each of SPAN_SIZES a window is cut into groups of so many tokens, its rest left out."""


class Sample(NamedTuple):
    """What `sample_activity` returns, of P places in each window."""

    mask: Tensor
    """Which entries are active, bool [B, P, F]."""
    by_exponent: Tensor
    """Active entries by the exponent bits of their float32, int64 [NUM_EXPONENTS]."""


def count_active(x1_TF: Tensor) -> Tensor:
    """Return how many neurons each token activates, int32 [T]; any floating dtype."""
    return _count_active(x1_TF)


def count_activity(x1_BSF: Tensor) -> Activity:
    """Return what tokens, neighbors, neurons and spans activate; any floating dtype."""
    return Activity(*_count_activity(x1_BSF))


def sample_activity(x1_BSF: Tensor, places_P: Tensor) -> Sample:
    """Return masks and magnitudes at some places of each window; `places_P` int64 [P] in [0, S)."""
    return Sample(*_sample_activity(x1_BSF, places_P))


def _fake_count_active(x1_TF: Tensor) -> Tensor:
    return x1_TF.new_empty(x1_TF.shape[0], dtype=torch.int32)


def _fake_count_activity(x1_BSF: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, S, F = x1_BSF.shape
    by_token, with_next, by_neuron = (
        x1_BSF.new_empty(shape, dtype=torch.int32) for shape in ((B, S), (B, S - 1), (F,))
    )
    return by_token, with_next, by_neuron, x1_BSF.new_empty(len(SPAN_SIZES), dtype=torch.int64)


def _fake_sample_activity(x1_BSF: Tensor, places_P: Tensor) -> tuple[Tensor, Tensor]:
    B, _, F = x1_BSF.shape
    mask = x1_BSF.new_empty((B, places_P.shape[0], F), dtype=torch.bool)
    return mask, x1_BSF.new_empty(NUM_EXPONENTS, dtype=torch.int64)


@operator(_fake_count_active)
def _count_active(x1_TF: Tensor) -> Tensor:
    return training_implementation(x1_TF.device).count_active(x1_TF)


@operator(_fake_count_activity)
def _count_activity(x1_BSF: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return training_implementation(x1_BSF.device).count_activity(x1_BSF)


@operator(_fake_sample_activity)
def _sample_activity(x1_BSF: Tensor, places_P: Tensor) -> tuple[Tensor, Tensor]:
    return training_implementation(x1_BSF.device).sample_activity(x1_BSF, places_P)
