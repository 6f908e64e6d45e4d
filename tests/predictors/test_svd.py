# SPDX-License-Identifier: Apache-2.0
"""The start: the gate itself at full rank, the best approximation at any other."""

import torch

from prosparse.predictors.predictor import Predictor
from prosparse.predictors.svd import SLOPE, narrowed, second_moments, svd_start

D, F = 24, 60


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(D, D, generator=generator) * torch.logspace(0, -2, D)
    x = torch.randn(4000, D, generator=generator) @ mix
    return torch.randn(F, D, generator=generator), x


def test_at_full_rank_it_is_the_gate():
    gate, x = data()
    start = svd_start(gate, second_moments(x, torch.device("cpu")), 2 * D)
    g = x @ gate.T
    expected = SLOPE * g / g.square().mean(dim=0).sqrt()
    assert (start.logits(x) - expected).norm() <= 1e-3 * expected.norm()


def test_a_lower_rank_is_the_beginning_of_a_higher():
    gate, x = data()
    moments = second_moments(x, torch.device("cpu"))
    high, low = svd_start(gate, moments, 20), svd_start(gate, moments, 8)
    short = narrowed(high, 8)
    assert short.rank == 8
    # the same up to signs of directions, which do not show in the logits
    assert torch.allclose(short.logits(x), low.logits(x), atol=1e-4)


def test_no_other_approximation_of_the_rank_is_closer():
    gate, x = data()
    g = x @ gate.T
    unit = g.square().mean(dim=0).sqrt()
    start = svd_start(gate, second_moments(x, torch.device("cpu")), 12)
    error = (start.logits(x) / SLOPE - g / unit).square().mean()
    # Eckart-Young, on the values themselves
    U, S, V = torch.linalg.svd(g / unit, full_matrices=False)
    best = ((U[:, :6] * S[:6]) @ V[:6] - g / unit).square().mean()
    assert error <= 1.001 * best
    plain = torch.linalg.svd(gate)  # not whitened
    crude = (plain.U[:, :6] * plain.S[:6]) @ plain.Vh[:6]
    assert error < 0.9 * ((x @ crude.T - g) / unit).square().mean()


def test_directions_that_inputs_never_take_do_no_harm():
    gate, x = data()
    x[:, -1] = 0
    start = svd_start(gate, second_moments(x, torch.device("cpu")), 2 * D)
    assert start.logits(x).isfinite().all()
    agree = ((start.logits(x) > 0) == (x @ gate.T > 0)).float().mean()
    assert agree > 0.99


def test_second_moments_of_many_rows_are_of_rows_from_all_over(monkeypatch):
    monkeypatch.setattr("prosparse.predictors.svd.MOST_ROWS", 100)
    x = torch.zeros(1000, 2)
    x[500:, 0] = 2.0
    moments = second_moments(x, torch.device("cpu"))
    assert moments[0, 0] == 2.0
    assert isinstance(svd_start(torch.eye(2), moments + torch.eye(2), 2), Predictor)
