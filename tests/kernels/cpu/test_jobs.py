# SPDX-License-Identifier: Apache-2.0
"""What a job knows of tensors is found again by that, and by nothing less."""

import pytest
import torch

from prosparse.kernels.cpu import jobs, operators
from prosparse.kernels.linear import linear
from tests.kernels.cases import random_weights


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """Count the jobs that are made, from none on."""
    monkeypatch.setattr(jobs, "_prepared", {})
    return jobs._prepared


def test_new_values_are_seen_and_nothing_is_made_anew(made):
    x, weight = torch.randn(1, 64), torch.randn(96, 64)
    linear(x, weight)
    weight.normal_()
    other = torch.randn(1, 64)
    torch.testing.assert_close(linear(other, weight), other @ weight.T)
    assert len(made) == 1


def test_another_shape_at_the_same_address_is_another_job(made):
    x, weight = torch.randn(1, 64), torch.randn(96, 64)
    linear(x, weight)
    torch.testing.assert_close(linear(x, weight[:7]), x @ weight[:7].T)
    with pytest.raises(ValueError, match="the matrix must be"):
        linear(x[:, :32], weight)
    with pytest.raises(ValueError, match="contiguous"):
        linear(x[:, :48], weight[:, :48])
    assert len(made) == 2


def test_another_threshold_is_another_job(made):
    weights = random_weights(64, 96)
    fields = [getattr(weights, name) for name in weights.__slots__]
    x = torch.randn(1, 64)
    y = operators.sparse_ffn_of(x, tuple(fields), None, False)
    fields[9] = 0.5  # the threshold
    assert not torch.equal(operators.sparse_ffn_of(x, tuple(fields), None, False), y)
    assert len(made) == 2


def test_they_do_not_pile_up(made, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_PREPARED", 3)
    x, weight = torch.randn(1, 64), torch.randn(96, 64)
    for rows in range(1, 9):
        assert linear(x, weight[:rows]).shape == (1, rows)
    assert len(made) <= 3
