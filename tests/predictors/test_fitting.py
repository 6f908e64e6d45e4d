# SPDX-License-Identifier: Apache-2.0
"""Training: the loss, which epoch is kept, and that it is the same each time."""

import math

import pytest
import torch

from prosparse.predictors import fitting as module
from prosparse.predictors.fitting import FitOptions, balanced_bce, fit_layer, mean_squared_share
from prosparse.predictors.pairs import encode_shares
from prosparse.predictors.predictor import Predictor
from prosparse.predictors.quality import qualities


def start(d_model=32, d_ff=48, rank=16):
    torch.manual_seed(0)
    return Predictor(torch.randn(rank, d_model) / 8, torch.randn(d_ff, rank) / 8)


def test_the_loss_by_hand():
    logits = torch.tensor([[0.0, 2.0], [1.0, -1.0]])
    shares = torch.tensor([[0.5, 0.0], [0.1, 0.0]])
    inactive = 2 / 4 + 0.005
    of_active = [math.log1p(math.exp(-v)) for v in (0.0, 1.0)]
    of_others = [math.log1p(math.exp(v)) for v in (2.0, -1.0)]
    weights = [0.5 + 0.5 * share**2 / 0.13 for share in (0.5, 0.1)]
    assert sum(weights) == pytest.approx(2)  # an active neuron counts 1 as a mean
    expected = weights[0] * of_active[0] + weights[1] * of_active[1] + inactive * sum(of_others)
    assert balanced_bce(logits, shares, 0.13).item() == pytest.approx(expected / 4)


def test_the_mean_is_of_active_neurons():
    shares = torch.tensor([[0.5, 0.0], [0.1, 0.0]])
    found = mean_squared_share(encode_shares(shares))
    assert found == pytest.approx(0.13, rel=0.15)
    assert mean_squared_share(torch.zeros(2, 2, dtype=torch.uint8)) == 1.0


def test_training_predicts_better_than_chance(collected):
    _, pairs = collected
    best, quality, epoch = fit_layer(
        start(), pairs, 0, FitOptions(epochs=30, batch_size=64, learning_rate=0.01)
    )
    assert epoch > 0
    # a predictor that knows nothing has recall = 1 - predicted sparsity
    assert quality.recall + quality.predicted_sparsity > 1.15
    (again,) = qualities(best, pairs.inputs(0, train=False), pairs.shares(0, train=False), [0.0])
    assert again == quality


def test_the_epoch_with_the_best_recall_is_kept(collected, monkeypatch):
    _, pairs = collected
    recalls = iter([0.5, 0.6, 0.9, 0.7, 0.8])
    seen = []

    def judged(predictor, *_rest):
        seen.append(predictor)
        quality = qualities(predictor, *_rest)[0]
        return [type(quality)(0.0, next(recalls), quality.predicted_sparsity, quality.sparsity)]

    monkeypatch.setattr(module, "qualities", judged)
    best, quality, epoch = fit_layer(start(), pairs, 0, FitOptions(epochs=4, batch_size=64))
    assert (epoch, quality.recall) == (2, 0.9)
    # judged before training, then after each epoch, always the same tensors but for the copy
    assert not torch.equal(best.fc1, seen[-1].fc1)


def test_the_start_is_kept_where_training_makes_it_worse(collected):
    _, pairs = collected
    all_in = Predictor(torch.zeros(4, 32), torch.zeros(48, 4))  # logits 0, so recall 1
    best, quality, epoch = fit_layer(all_in, pairs, 0, FitOptions(epochs=3))
    assert (epoch, quality.recall) == (0, 1.0)
    assert best is all_in


def test_a_fit_gives_the_same_bits_again(collected):
    _, pairs = collected
    options = FitOptions(epochs=2, batch_size=64)
    first, second = (fit_layer(start(), pairs, 1, options)[0] for _ in range(2))
    assert torch.equal(first.fc1, second.fc1)
    assert torch.equal(first.fc2, second.fc2)


def test_rows_that_are_not_trained_on_are_told_too(collected):
    _, pairs = collected
    rows = []
    all_in = Predictor(torch.zeros(4, 32), torch.zeros(48, 4))
    fit_layer(all_in, pairs, 0, FitOptions(epochs=20, batch_size=100), rows.append)
    assert sum(rows) == 20 * pairs.layout.num_train
