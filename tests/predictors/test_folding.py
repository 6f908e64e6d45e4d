# SPDX-License-Identifier: Apache-2.0
"""A cut of 0 in place of another predicts nearly the same."""

import torch

from prosparse.predictors.folding import fold_cut
from prosparse.predictors.predictor import Predictor
from prosparse.predictors.svd import interleave


def predictor(cut):
    torch.manual_seed(0)
    fc1 = interleave(torch.randn(100, 128) / 128**0.5, dim=0)
    return Predictor(fc1, interleave(torch.randn(300, 100) / 10, dim=1), cut)


def inputs():
    x = torch.randn(2000, 128)
    return x * x.square().mean(dim=1, keepdim=True).rsqrt()  # as RMSNorm makes them


def test_nearly_the_same_neurons():
    own, x = predictor(-0.5), inputs()
    folded = fold_cut(own, x)
    assert folded.cut == 0
    assert folded.fc1 is own.fc1
    expected, found = own.predicts(x), folded.predicts(x)
    plain = Predictor(own.fc1, own.fc2).predicts(x)
    assert (expected != found).float().mean() < 0.02
    assert (expected != plain).float().mean() > 0.1
    assert abs(expected.float().mean() - found.float().mean()) < 0.002


def test_a_cut_of_zero_is_left_alone():
    own = predictor(0.0)
    assert fold_cut(own, inputs()) is own


def test_massive_inputs_compute_more_and_not_fewer():
    own, x = predictor(-0.5), inputs()
    massive = 50 * x[:10]
    assert (fold_cut(own, x).predicts(massive) | ~own.predicts(massive)).all()
