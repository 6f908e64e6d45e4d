# SPDX-License-Identifier: Apache-2.0
"""A weight of the penalty for each layer."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prosparse.errors import UserError
from prosparse.model.ffn import ffns
from prosparse.records.codec import decode
from prosparse.training.recipe import Recipe
from prosparse.training.regularizer import SparsityPenalty, layer_weights


@pytest.mark.parametrize("wanted", ["rising", "falling", (1.0, 0.0, 3.0, 8.0), (2.0,) * 4])
def test_weights_of_layers_keep_lambda_s_meaning(wanted):
    weights = layer_weights(wanted, 4)
    assert sum(weights) == pytest.approx(4)
    if not isinstance(wanted, str):
        assert weights == pytest.approx([4 * w / sum(wanted) for w in wanted])


def test_profiles():
    assert layer_weights("rising", 3) == pytest.approx((0.5, 1, 1.5))
    assert layer_weights("falling", 3) == pytest.approx((1.5, 1, 0.5))
    assert layer_weights("rising", 1) == (1.0,)
    assert layer_weights(None, 3) is None


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ((1.0, 2.0), "layer_weights has 2 numbers, but the model has 3 layers"),
        ((1.0, -1.0, 2.0), r"numbers >= 0, not all of them 0; found \[1.0, -1.0, 2.0\]"),
        ((0.0, 0.0, 0.0), "not all of them 0"),
        ((1.0, float("nan"), 1.0), "numbers >= 0"),
    ],
)
def test_impossible_weights(wanted, message):
    with pytest.raises(UserError, match=message):
        layer_weights(wanted, 3)


def test_a_recipe_names_a_profile_or_lists_the_weights(recipe_data):
    def weights(value):
        recipe_data["regularization"]["layer_weights"] = value
        return decode(Recipe, recipe_data, "my.yaml").regularization.layer_weights

    assert weights("rising") == "rising"
    assert weights([1, 2]) == (1.0, 2.0)
    assert weights(None) is None
    with pytest.raises(
        UserError, match=r"layer_weights must be one of rising, falling; found 'up'"
    ):
        weights("up")
    with pytest.raises(UserError, match="layer_weights must be a list, found 3"):
        weights(3)
    with pytest.raises(UserError, match="regularization: layer_weights must be numbers >= 0"):
        weights([1, -2])


@pytest.mark.usefixtures("path")
def test_the_penalty_is_the_weighted_sum(relu_checkpoint, intermediates):
    model = AutoModelForCausalLM.from_pretrained(relu_checkpoint).train()
    ids_BS = torch.randint(1, 257, (3, 16), generator=torch.Generator().manual_seed(1))
    penalty = SparsityPenalty(ffns(model), torch.device("cpu"), (0.5, 1.5))
    with penalty.attached(), penalty.collect(None):
        model(input_ids=ids_BS)
    total = penalty.total(penalty.take())
    low, high = (x1.abs().sum() for x1 in intermediates(model, ids_BS))
    parameter = model.model.layers[0].mlp.gate_proj.weight
    (mine,) = torch.autograd.grad(total, parameter)
    (by_hand,) = torch.autograd.grad(0.5 * low + 1.5 * high, parameter)
    torch.testing.assert_close(mine, by_hand, rtol=1e-4, atol=1e-4)
    assert total.item() == pytest.approx((0.5 * low + 1.5 * high).item(), rel=1e-5)


@pytest.fixture
def data(plain_data) -> dict:
    plain_data["training"]["micro_batch_size"] = 8
    plain_data["regularization"]["stages"] = [{"until": 6, "factor": 2.0}]
    return plain_data


def variant(data: dict, name: str, weights, **training) -> dict:
    data = copy.deepcopy(data)
    data["out"] += f"-{name}"
    data["training"].update(training)
    data["regularization"]["layer_weights"] = weights
    return data


@pytest.mark.invariant
@pytest.mark.usefixtures("path")
def test_how_a_step_is_computed_changes_no_number(run, data):
    whole = run(variant(data, "whole", [1, 3]))
    assert whole.log[0]["layer_coefficient"] == pytest.approx([1 / 48, 3 / 48])
    line = whole.log[-1]
    assert line["regularization"] == pytest.approx(line["coefficient"] * line["l1"])
    parts = {"micro_batch_size": 2, "gradient_accumulation": 4, "gradient_checkpointing": True}
    run(variant(data, "parts", [1, 3], **parts)).assert_close(whole)


@pytest.mark.invariant
def test_two_processes_are_one(run, start, finished, data):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    halved = variant(data, "halved", "falling", micro_batch_size=4)
    process = start(halved, launcher=launcher)
    whole = run(variant(data, "whole", "falling"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    finished(Path(halved["out"])).assert_close(whole)


@pytest.mark.invariant
def test_equal_weights_are_none_to_the_last_bit(run, data):
    without, equal = run(variant(data, "without", None)), run(variant(data, "equal", [7, 7]))
    equal.assert_same_weights(without)
    assert "layer_coefficient" not in without.log[0]


def test_a_layer_without_weight_is_left_alone(run, data):
    data["regularization"]["stages"] = [{"until": 40, "factor": 20.0}]
    low, high = run(variant(data, "high", [0, 1])).log[-1]["layer_sparsity"]
    assert high > low + 0.05
