# SPDX-License-Identifier: Apache-2.0
"""Thresholds are measured on the same windows as plain ReLU, whatever the model had."""

import math
import statistics

import pytest
import torch

import prosparse as ps
from prosparse.measurement.perplexity import paired_increase
from prosparse.model.activation import FATReLU
from prosparse.model.relufy import activation_of
from prosparse.records.sparsity import Activation
from prosparse.thresholds.judge import Judge, apply_thresholds


def test_the_baseline_is_the_unshifted_model(judge):
    first, second = judge.baseline, judge.measure("fixed", 0.2, [0.2, 0.2])
    assert (first.threshold, first.layer_thresholds) == (0.0, (0.0, 0.0))
    assert (first.perplexity_increase, first.perplexity_increase_stderr) == (0.0, 0.0)
    assert first.within_budget
    # 8 windows of a and 4 of b: sparsity is over all tokens, the increase over data sets.
    pooled = [
        (2 * a + b) / 3
        for a, b in zip(first.data[0].layer_sparsity, first.data[1].layer_sparsity, strict=True)
    ]
    assert first.layer_sparsity == pytest.approx(pooled)
    increase = math.expm1(
        statistics.mean(s.loss - f.loss for s, f in zip(second.data, first.data, strict=True))
    )
    assert second.perplexity_increase == pytest.approx(increase)


@pytest.mark.parametrize("start", [(0.0, 0.0), (0.3, 0.3), (0.1, 0.5)])
def test_the_baseline_is_plain_relu_whatever_the_model_had(start, model, passes):
    expected = Judge(passes, 2, 0.01).measure("fixed", 0.2, [0.2, 0.2])
    apply_thresholds(model, start)
    assert Judge(passes, 2, 0.01).measure("fixed", 0.2, [0.2, 0.2]) == expected


def test_each_layer_is_measured_under_its_own_threshold(judge):
    row = judge.measure("cett", 0.1, [0.0, 0.5])
    assert (row.method, row.threshold, row.layer_thresholds) == ("cett", 0.1, (0.0, 0.5))
    assert row.layer_sparsity[0] == judge.baseline.layer_sparsity[0]
    assert row.layer_sparsity[1] > judge.baseline.layer_sparsity[1] + 0.1


def test_each_candidate_is_told_as_it_comes(passes):
    told = []
    judge = Judge(passes, 2, 0.01, told.append)
    row = judge.measure("fixed", 0.1, [0.1, 0.1])
    assert told == [judge.baseline, row]


@pytest.mark.parametrize("is_check", [False, True])
def test_the_budget_is_inclusive(passes, judge, is_check):
    """It holds with 95 % confidence where thresholds are chosen, as measured where they are checked."""
    row = judge.measure("fixed", 0.5, [0.5, 0.5])
    highest = row.perplexity_increase + 1.645 * row.perplexity_increase_stderr
    judged = row.perplexity_increase if is_check else highest
    for budget, expected in ((judged, True), (judged - 1e-9, False)):
        row = Judge(passes, 2, budget, is_check=is_check).measure("fixed", 0.5, [0.5, 0.5])
        assert row.within_budget == expected


def test_weights_of_nan_are_refused_by_one_sentence(model, passes):
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = math.nan
    with pytest.raises(ps.UserError, match="loss on 'a' is not a finite number under plain ReLU"):
        Judge(passes, 2, 0.01)


def test_apply_changes_every_layer_and_the_config(model):
    def found():
        return [m.param for m in model.modules() if isinstance(m, FATReLU)]

    apply_thresholds(model, [0.25, 0.25])
    assert (activation_of(model), found()) == (Activation("fatrelu", 0.25), [0.25, 0.25])
    apply_thresholds(model, [0.0, 0.25])
    assert (activation_of(model), found()) == (Activation("fatrelu", (0.0, 0.25)), [0.0, 0.25])
    apply_thresholds(model, [0.0, 0.0])
    assert activation_of(model) == Activation("relu")


def test_the_increase_and_its_error_by_hand():
    a, a_base = [2.0, 3.0, 5.0], [1.9, 2.8, 5.1]
    b, b_base = [1.0, 1.5], [1.0, 1.2]
    differences = [[0.1, 0.2, -0.1], [0.0, 0.3]]
    mean = statistics.mean(statistics.mean(d) for d in differences)
    errors = [statistics.stdev(d) / math.sqrt(len(d)) for d in differences]
    stderr = math.hypot(*errors) / 2
    found = paired_increase(
        [torch.tensor(a).double(), torch.tensor(b).double()],
        [torch.tensor(a_base).double(), torch.tensor(b_base).double()],
    )
    assert found == pytest.approx((math.exp(mean) - 1, math.exp(mean) * stderr), rel=1e-5)


def test_equal_losses_have_no_increase_and_no_error():
    losses = [torch.tensor([1.0, 9.0, 4.0])]
    assert paired_increase(losses, losses) == (0.0, 0.0)


def test_a_ruined_model_is_infinitely_worse():
    losses, baseline = [torch.tensor([900.0, 950.0])], [torch.tensor([1.0, 1.0])]
    assert paired_increase(losses, baseline) == (math.inf, math.inf)
    increase, _ = paired_increase([torch.tensor([math.nan])], [torch.tensor([1.0])])
    assert math.isnan(increase)
