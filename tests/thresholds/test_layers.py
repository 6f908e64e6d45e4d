# SPDX-License-Identifier: Apache-2.0
"""Curves and costs of layers against plain loops; the allocation against every possible one."""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from prosparse.measurement.passes import Passes
from prosparse.model.activation import FATReLU
from prosparse.records.threshold import LayerCost
from prosparse.thresholds.layers import (
    COST_ERROR,
    CostModel,
    LayerCurves,
    beginnings,
    measure_costs,
    price,
)


@pytest.fixture
def curves(passes):
    return LayerCurves(passes)


def gates_and_intermediates(model, ids_WS):
    """Return act(gate) and x_1 of every token of each layer, [T, F] each."""
    kept = [[] for _ in model.model.layers]

    def keep(layer):
        def hook(mlp, args, _output):
            gate = torch.relu(mlp.gate_proj(args[0])).flatten(0, 1)
            kept[layer].append((gate, gate * mlp.up_proj(args[0]).flatten(0, 1)))

        return hook

    handles = [
        layer.mlp.register_forward_hook(keep(i)) for i, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        model(ids_WS)
    for handle in handles:
        handle.remove()
    return [pairs[0] for pairs in kept]


def by_hand(model, held_out, layer, threshold):
    """Return relative output error and share of zeros of a layer, a token at a time, in float64."""
    shares, zeros, entries = [], 0, 0
    down = model.model.layers[layer].mlp.down_proj.weight.detach().double()
    for windows in held_out:
        gate_TF, x1_TF = gates_and_intermediates(model, windows.ids_WS)[layer]
        for gate_F, x1_F in zip(gate_TF, x1_TF, strict=True):
            weak_F = torch.where(gate_F < threshold, x1_F, 0).double()
            shares.append(((down @ weak_F).norm() / (down @ x1_F.double()).norm()).item())
            zeros += int((torch.where(gate_F < threshold, 0, x1_F) == 0).sum())
            entries += len(gate_F)
    return sum(shares) / len(shares), zeros / entries


def losses(model, windows):
    found = []
    with torch.no_grad():
        for ids in windows.ids_WS:
            logits = model(ids[None]).logits[0, :-1].double()
            found.append(functional.cross_entropy(logits, ids[1:]).item())
    return found


@pytest.mark.parametrize("point", [0, 1, 5, 20, 31])
def test_the_curves_are_those_of_fatrelu(point, model, held_out, curves):
    for layer in range(2):
        threshold = curves.thresholds_LG[layer, point].item()
        error, zeros = by_hand(model, held_out, layer, threshold)
        assert curves.errors_LG[layer, point].item() == pytest.approx(error, rel=1e-6, abs=1e-9)
        assert curves.zeros_LG[layer, point].item() == pytest.approx(zeros, rel=1e-6)


@pytest.mark.parametrize("error", [0.05, 0.3])
def test_every_layer_makes_the_error_that_all_have_in_common(error, model, held_out, curves):
    thresholds, errors = curves.thresholds(error)
    assert thresholds[0] != thresholds[1]
    for layer, (threshold, found) in enumerate(zip(thresholds, errors, strict=True)):
        assert found == pytest.approx(by_hand(model, held_out, layer, threshold)[0], rel=1e-6)
        assert found <= error
        assert by_hand(model, held_out, layer, 1.1 * threshold)[0] > error


def test_curves_are_of_plain_relu_whatever_the_model_had(model, passes, curves):
    for layer in model.model.layers:
        layer.mlp.act_fn = FATReLU(0.7)
    assert curves.thresholds(0.2) == LayerCurves(passes).thresholds(0.2)


def test_the_cost_of_a_layer_is_the_loss_of_its_threshold_alone(model, held_out, passes, curves):
    costs = measure_costs(passes, curves)
    plain = [losses(model, windows) for windows in held_out]
    thresholds, errors = curves.thresholds(COST_ERROR)
    for layer, cost in enumerate(costs):
        assert (cost.threshold, cost.error) == (thresholds[layer], errors[layer])
        mlp = model.model.layers[layer].mlp
        before, mlp.act_fn = mlp.act_fn, FATReLU(cost.threshold)
        shifted = [losses(model, windows) for windows in held_out]
        mlp.act_fn = before
        by_hand = statistics.mean(
            statistics.mean(s) - statistics.mean(p) for s, p in zip(shifted, plain, strict=True)
        )
        assert cost.loss_increase == pytest.approx(by_hand, rel=1e-5, abs=1e-7)
        windows = [s - p for s, p in zip(sum(shifted, []), sum(plain, []), strict=True)]
        by_hand = statistics.stdev(windows) / math.sqrt(len(windows))
        assert cost.loss_increase_stderr == pytest.approx(by_hand, rel=1e-4)


def test_few_tokens_are_enough_for_curves_and_costs(held_out):
    first, second = beginnings(held_out, 96)
    assert torch.equal(first.ids_WS, held_out[0].ids_WS[:3])
    assert torch.equal(second.ids_WS, held_out[1].ids_WS[:3])
    assert [len(w.ids_WS) for w in beginnings(held_out, 1)] == [1, 1]


def test_noise_makes_no_layer_free():
    assert price(LayerCost(0.1, 0.5, 0.02, 0.001)) == pytest.approx(0.084)
    assert price(LayerCost(0.1, 0.5, -0.02, 0.001)) == pytest.approx(0.004)
    assert price(LayerCost(0.1, 0.5, -0.02, math.nan)) == 0
    assert price(LayerCost(0.0, 0.0, 0.0, 0.0)) == 0


ladders = st.integers(0, 2**31).map(lambda seed: torch.Generator().manual_seed(seed))


def random_model(generator, num_layers=3, num_steps=4) -> CostModel:
    def rising():
        steps = torch.rand(num_layers, num_steps, generator=generator, dtype=torch.float64)
        return torch.cat([torch.zeros(num_layers, 1).double(), steps.cumsum(1)], dim=1)

    return CostModel(rising().float(), rising(), rising() ** 2)


def totals(model, choice):
    return (
        sum(model.gains_LG[layer, step].item() for layer, step in enumerate(choice)),
        sum(model.costs_LG[layer, step].item() for layer, step in enumerate(choice)),
    )


@given(ladders, st.floats(0, 30))
def test_no_other_choice_that_costs_as_little_has_more_zeros(generator, budget):
    model = random_model(generator)
    thresholds = model.thresholds(budget)
    choice = [
        model.thresholds_LG[layer].tolist().index(found) for layer, found in enumerate(thresholds)
    ]
    gain, cost = totals(model, choice)
    assert cost <= budget + 1e-9
    num_layers, num_steps = model.gains_LG.shape
    for other in itertools.product(range(num_steps), repeat=num_layers):
        other_gain, other_cost = totals(model, other)
        assert other_cost > cost - 1e-9 or other_gain <= gain + 1e-9


@given(ladders)
def test_thresholds_rise_with_the_budget_and_end_at_all(generator):
    model = random_model(generator)
    found = [model.thresholds(budget) for budget in (0, 0.1, 1, 3, 1e6)]
    assert found[0] == [0, 0, 0]
    assert found[-1] == model.thresholds_LG[:, -1].tolist()
    for layer in zip(*found, strict=True):
        assert list(layer) == sorted(layer)


def test_a_dear_layer_gets_the_lower_threshold(passes, curves):
    cheap, dear = (LayerCost(0.1, 0.3, loss, 0.0) for loss in (0.001, 0.1))
    low = CostModel.of(curves, [cheap, dear]).thresholds(0.01)
    high = CostModel.of(curves, [dear, cheap]).thresholds(0.01)
    assert low[0] > high[0]
    assert low[1] < high[1]


def test_the_predicted_cost_is_the_square_law(curves):
    model = CostModel.of(curves, [LayerCost(0.1, 0.5, 0.02, 0.0), LayerCost(0.1, 0.25, 0.03, 0.0)])
    at = torch.tensor([[8 * 11], [8 * 20]])  # points of the curves themselves
    errors = [curves.errors_LG[0, 11].item(), curves.errors_LG[1, 20].item()]
    expected = [0.02 * (errors[0] / 0.5) ** 2, 0.03 * (errors[1] / 0.25) ** 2]
    assert model.costs_LG.gather(1, at)[:, 0].tolist() == pytest.approx(expected)
    assert model.thresholds_LG[0, 8 * 11] == curves.thresholds_LG[0, 11]


def test_passes_of_any_length(model, held_out):
    assert LayerCurves(Passes(model, held_out[:1], "float32")).num_layers == 2
