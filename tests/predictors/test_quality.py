# SPDX-License-Identifier: Apache-2.0
"""Recall, predicted sparsity and missed output, by hand."""

import math

import numpy as np
import pytest
import torch

from prosparse.predictors.predictor import Predictor
from prosparse.predictors.quality import Counts, Missed, cut_for_recall, missed_shares, qualities

LOGITS = torch.tensor([[1.0, -1.0, 0.0, 3.0], [-2.0, 2.0, -0.5, 0.5]])
ACTIVE = torch.tensor([[True, True, False, True], [False, True, False, False]])
IDENTITY = Predictor(torch.eye(4), torch.eye(4))
SHARES = ACTIVE.to(torch.uint8) * 200


def test_counts_by_hand():
    counts = Counts([0.0, 2.0, -9.0], torch.device("cpu"))
    counts.add(LOGITS, ACTIVE)
    at_zero, at_two, all_in = counts.qualities()
    # active: 4 of 8; predicted at 0: 1, 0 (a tie), 3, 2, 0.5, so 5, of which 3 are right
    assert (at_zero.recall, at_zero.predicted_sparsity, at_zero.sparsity) == (3 / 4, 3 / 8, 1 / 2)
    assert (at_two.recall, at_two.predicted_sparsity) == (2 / 4, 6 / 8)
    assert (all_in.recall, all_in.predicted_sparsity) == (1.0, 0.0)


def test_a_layer_without_active_neurons_has_no_recall():
    counts = Counts([0.0], torch.device("cpu"))
    counts.add(LOGITS, torch.zeros_like(ACTIVE))
    assert math.isnan(counts.qualities()[0].recall)


def test_qualities_go_over_all_rows(monkeypatch):
    monkeypatch.setattr("prosparse.predictors.quality.CHUNK", 1)
    (found,) = qualities(IDENTITY, LOGITS.half(), SHARES, [0.4])
    positive = LOGITS.relu()  # the identity in front of the ReLU
    assert found.predicted_sparsity == float((positive < 0.4).float().mean())
    assert found.recall == 3 / 4


@pytest.mark.parametrize("recall", [0.25, 0.5, 0.75, 0.9, 0.999])
def test_the_cut_for_a_recall_is_the_highest_that_keeps_it(recall):
    torch.manual_seed(0)
    predictor = Predictor(torch.randn(6, 4), torch.randn(4, 6))
    x, active = torch.randn(500, 4), torch.rand(500, 4) < 0.3
    shares = active.to(torch.uint8)
    cut = cut_for_recall(predictor, x, shares, recall)
    above = float(np.nextafter(np.float32(cut), np.float32(np.inf)))
    at_cut, beyond = qualities(predictor, x, shares, [cut, above])
    assert at_cut.recall >= recall > beyond.recall


def test_nothing_active_takes_any_cut():
    assert cut_for_recall(IDENTITY, LOGITS, torch.zeros_like(SHARES), 0.9) == -math.inf


def test_missed_output_by_hand():
    x1 = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    logits = torch.tensor([[-1.0, 1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, -1.0]])
    none, some, all_ = missed_shares(logits, x1, torch.eye(4), [-9.0, -0.5, 9.0]).tolist()
    assert none == 0
    assert some == pytest.approx(((3**2 + 1) / (5**2 + 1)) ** 0.5)  # more than (3 / 5 + 1 + 0) / 3
    assert all_ == pytest.approx(1)


def test_missed_is_a_mean_over_tokens_or_of_all_together_whichever_is_more():
    missed = Missed(torch.device("cpu"))
    missed.add(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 1000.0]))
    assert missed.share() == pytest.approx(2 / 3)
    missed.add(torch.tensor([1000.0]), torch.tensor([1000.0]))  # a massive one
    assert missed.share() == pytest.approx(3 / 4)
    missed.add(torch.zeros(96), torch.ones(96))  # and many that a mean would see alone
    assert missed.share() == pytest.approx((1_000_002 / 2_000_098) ** 0.5)
