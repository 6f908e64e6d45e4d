# SPDX-License-Identifier: Apache-2.0
"""The sweep measures every threshold on the same windows; the largest within the budget wins."""

import math
import statistics

import pytest
import torch

import prosparse as ps
from prosparse.measurement.perplexity import Windows
from prosparse.model.activation import FATReLU
from prosparse.model.relufy import activation_of
from prosparse.records.sparsity import Activation
from prosparse.records.threshold import ThresholdCandidate
from prosparse.thresholds.search import (
    apply_threshold,
    check_candidates,
    choose,
    paired_increase,
    refuse_dense,
    sweep,
)


@pytest.fixture
def model(relu_checkpoint):
    return ps.load(relu_checkpoint)


@pytest.fixture
def held_out():
    ids = torch.randint(1, 257, (12, 16), generator=torch.Generator().manual_seed(2))
    return [Windows("a", "a.jsonl", ids[:8]), Windows("b", "b.jsonl", ids[8:])]


def candidate(threshold: float, within_budget: bool) -> ThresholdCandidate:
    return ThresholdCandidate(threshold, 0.5, (0.5,), (), 0.0, 0.0, within_budget)


def test_sparsity_rises_with_the_threshold(model, held_out):
    rows = sweep(model, held_out, (0.05, 0.2, 0.8, 3.0), 0.01, precision="float32")
    assert [row.threshold for row in rows] == [0, 0.05, 0.2, 0.8, 3.0]
    for lower, higher in zip(rows, rows[1:], strict=False):
        assert higher.sparsity > lower.sparsity
        pairs = zip(lower.layer_sparsity, higher.layer_sparsity, strict=True)
        assert all(after >= before for before, after in pairs)


def test_the_first_row_is_the_unshifted_model(model, held_out):
    first, second = sweep(model, held_out, (0.2,), 0.01, precision="float32")
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


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_the_baseline_is_plain_relu_and_so_is_the_model_afterwards(start, model, held_out):
    expected = sweep(model, held_out, (0.2,), 0.01, precision="float32")
    apply_threshold(model, start)
    assert sweep(model, held_out, (0.2,), 0.01, precision="float32") == expected
    assert activation_of(model) == Activation("relu")


def test_each_candidate_is_told_as_it_comes(model, held_out):
    told = []
    rows = sweep(model, held_out, (0.1, 0.2), 0.01, precision="float32", on_candidate=told.append)
    assert told == list(rows)


def test_the_budget_is_inclusive_and_the_baseline_always_within(model, held_out):
    _, row = sweep(model, held_out, (0.5,), 1.0, precision="float32")
    increase = abs(row.perplexity_increase)
    for budget, expected in ((increase, True), (increase * 0.99, row.perplexity_increase < 0)):
        rows = sweep(model, held_out, (0.5,), budget, precision="float32")
        assert [r.within_budget for r in rows] == [True, expected]


def test_the_largest_within_the_budget_is_chosen():
    assert choose([candidate(0, True), candidate(0.1, True), candidate(0.2, False)]) == 0.1


def test_a_curve_that_gets_better_again_is_followed_to_its_end():
    rows = [candidate(0, True), candidate(0.1, False), candidate(0.2, True), candidate(0.3, False)]
    assert choose(rows) == 0.2


def test_none_within_the_budget_is_plain_relu():
    assert choose([candidate(0, True), candidate(0.1, False)]) == 0.0


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


def test_a_ruined_model_is_infinitely_worse_and_never_chosen():
    losses, baseline = [torch.tensor([900.0, 950.0])], [torch.tensor([1.0, 1.0])]
    assert paired_increase(losses, baseline) == (math.inf, math.inf)
    increase, _ = paired_increase([torch.tensor([math.nan])], [torch.tensor([1.0])])
    assert math.isnan(increase)


def test_apply_changes_every_layer_and_the_config(model):
    apply_threshold(model, 0.25)
    assert activation_of(model) == Activation("fatrelu", 0.25)
    thresholds = [m.param for m in model.modules() if isinstance(m, FATReLU)]
    assert thresholds == [0.25, 0.25]
    apply_threshold(model, 0.0)
    assert activation_of(model) == Activation("relu")


def test_candidates_are_sorted_and_come_once():
    assert check_candidates([0.3, 0.1, 0.3]) == (0.1, 0.3)


@pytest.mark.parametrize("bad", [[], [0.0], [-0.1], [0.1, math.nan], [math.inf]])
def test_candidates_that_are_refused(bad):
    with pytest.raises(ps.UserError, match="--candidates"):
        check_candidates(bad)


def test_a_dense_model_is_refused(checkpoint):
    with pytest.raises(ps.UserError, match="activation function is silu; a threshold shifts ReLU"):
        refuse_dense(ps.load(checkpoint))
