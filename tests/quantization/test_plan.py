# SPDX-License-Identifier: Apache-2.0
"""The plan keeps what is expensive and stays within its budget together."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prosparse.errors import UserError
from prosparse.model.quantizing import Place
from prosparse.quantization.plan import CLOSER_LOOK, plan_bits


class Costs:
    """A trial whose divergences are sums of known costs: {name: {bits: nats}}."""

    def __init__(self, costs):
        self.costs, self.asked = costs, []

    def divergence(self, bits):
        self.asked.append(dict(bits))
        return math.fsum(self.costs[place.name][width] for place, width in bits.items())

    together = divergence


def made(layers, outside=()):
    """Places named by layer and number, all of one size."""
    owner = nn.Module()
    named = [("table", None)] * bool(outside)
    named += [(f"{layer}.{i}", layer) for layer, count in enumerate(layers) for i in range(count)]
    found = []
    for name, layer in named:
        child = name.replace(".", "_")
        setattr(owner, child, nn.Linear(4, 4))
        found.append(Place(name, owner, child, False, layer))
    return found


def costs(found, eight=0.0, four=0.001, **others):
    return {p.name: others.get(p.name.replace(".", "_"), {8: eight, 4: four}) for p in found}


def test_all_get_the_least_where_all_bear_it():
    found = made([3, 3])
    plan = plan_bits(Costs(costs(found)), found, 4, 0.1)
    assert set(plan.bits.values()) == {4}
    assert plan.divergence == pytest.approx(0.006)


def test_super_weights_get_eight_bits_or_stay():
    found = made([3, 3])
    trial = Costs(
        costs(found) | {"0.1": {8: 0.0, 4: 1.0}, "1.2": {8: 0.9, 4: 3.0}, "1.0": {8: 0.0, 4: 0.5}}
    )
    plan = plan_bits(trial, found, 4, 0.05)
    assert plan.bits == {"0.0": 4, "0.1": 8, "0.2": 4, "1.0": 8, "1.1": 4, "1.2": None}
    assert plan.alone["1.2"] == {8: 0.9}
    assert plan.alone["0.1"][4] == 1.0


def test_at_eight_bits_the_rest_stays():
    found = made([2, 2])
    plan = plan_bits(Costs(costs(found) | {"1.1": {8: 0.5}}), found, 8, 0.01)
    assert plan.bits == {"0.0": 8, "0.1": 8, "1.0": 8, "1.1": None}


def test_a_cheap_layer_is_not_taken_apart_and_a_dear_one_is():
    found = made([4, 4], outside=True)
    trial = Costs(costs(found) | {"1.3": {8: 0.02}})
    plan = plan_bits(trial, found, 8, 0.01)
    assert [name for name, alone in plan.alone.items() if alone] == [
        "table", "1.0", "1.1", "1.2", "1.3",
    ]  # fmt: skip
    assert CLOSER_LOOK * 0.01 < 0.02


def test_what_a_weight_costs_counts_not_what_a_matrix_does():
    found = made([2])
    found[1].owner.get_submodule("0_1").weight = nn.Parameter(torch.zeros(400, 4))
    plan = plan_bits(Costs({"0.0": {8: 0.01}, "0.1": {8: 0.02}}), found, 8, 0.02)
    assert plan.bits == {"0.0": None, "0.1": 8}


@given(
    st.lists(st.floats(0, 0.2), min_size=2, max_size=12),
    st.floats(0, 0.3),
    st.sampled_from([8, 4]),
)
def test_together_it_is_always_within_the_budget(found_costs, budget, bits):
    found = made([len(found_costs)])
    trial = Costs({p.name: {8: c / 16, 4: c} for p, c in zip(found, found_costs, strict=True)})
    plan = plan_bits(trial, found, bits, budget)
    assert plan.divergence <= budget + 1e-12
    joint = {place: plan.bits[place.name] for place in found if plan.bits[place.name]}
    assert plan.divergence == trial.divergence(joint)


def test_a_budget_that_nothing_fits_keeps_everything():
    found = made([2])
    plan = plan_bits(Costs(costs(found, eight=0.1)), found, 8, 0.0)
    assert set(plan.bits.values()) == {None}
    assert plan.divergence == 0


def test_refusals():
    with pytest.raises(UserError, match="--bits must be 8 or 4; found 3"):
        plan_bits(Costs({}), [], 3, 0.1)
    with pytest.raises(UserError, match="must be >= 0; found nan"):
        plan_bits(Costs({}), [], 8, math.nan)
