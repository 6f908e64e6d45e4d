# SPDX-License-Identifier: Apache-2.0
"""FFN projections in 8 and 4 bits, and the ones that do not bear it."""

import copy

import pytest
import torch

import prosparse as ps
from prosparse.kernels.quantize import dequantize
from prosparse.model.activation import make_activation
from prosparse.model.ffn import ffns
from prosparse.model.quantized import QuantizedLinear, plan_bits, projections, quantize_ffns
from prosparse.model.relufy import relufy_in_place
from tests.model.tiny import tiny_model, tiny_tokens

FAMILIES = ["llama", "phi3", "opt", "gpt2"]


def relu_model(model_type="llama"):
    model = tiny_model(model_type)
    relufy_in_place(model, make_activation("relu"))
    return model


def logits(model):
    with torch.no_grad():
        return model(tiny_tokens(6), use_cache=False).logits


def rounded(model, bits):
    """The same model with every FFN weight replaced by what its quantized form stands for."""
    twin = copy.deepcopy(model)
    for (_, owner, child, _), (_, place, name, _) in zip(
        projections(bits), projections(twin), strict=True
    ):
        weight = getattr(place, name).weight
        value = getattr(owner, child).weight()
        weight.data = value.T if value.shape != weight.shape else value
    return twin


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_quantized_model_is_the_model_with_rounded_weights(model_type, bits):
    model = relu_model(model_type)
    quantized = copy.deepcopy(model)
    quantize_ffns(quantized, bits, group_size=32)
    torch.testing.assert_close(logits(quantized), logits(rounded(model, quantized)))
    assert not torch.equal(logits(quantized), logits(model))
    assert [f.d_ff for f in ffns(quantized)] == [f.d_ff for f in ffns(model)]
    assert [f.d_model for f in ffns(quantized)] == [f.d_model for f in ffns(model)]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_accelerated_it_computes_the_same(model_type, bits):
    model = relu_model(model_type)
    quantize_ffns(model, bits, group_size=32)
    before = logits(model)
    with ps.accelerate(model, max_tokens=16):
        torch.testing.assert_close(logits(model), before)
    assert torch.equal(logits(model), before)


def test_neurons_are_rows_and_groups_lie_along_d_model():
    model = relu_model()
    down = ffns(model)[0].down
    weight = down.weight.detach().clone()
    quantized = QuantizedLinear(down, 8, is_down=True, group_size=32)
    assert quantized.values.shape == weight.T.shape
    rows = dequantize(quantized.values, quantized.scales)
    steps = (rows - weight.T).abs().reshape(len(rows), -1, 32)
    assert (steps <= quantized.scales.float().unsqueeze(-1) * 0.501).all()


def test_only_what_was_named():
    model = relu_model()
    names = [name for name, *_ in projections(model)]
    quantize_ffns(model, dict.fromkeys(names) | {names[0]: 4, names[-1]: 8}, group_size=32)
    kinds = [
        getattr(getattr(owner, child), "bits", None) for _, owner, child, _ in projections(model)
    ]
    assert kinds == [4, *[None] * (len(names) - 2), 8]
    before = logits(model)
    with ps.accelerate(model, max_tokens=16):
        torch.testing.assert_close(logits(model), before)


def test_each_projection_is_judged_alone():
    model, ids = relu_model(), tiny_tokens(24)
    increases = dict.fromkeys(plan_bits(model, ids, 4, group_size=32), 0.0)
    for name in increases:
        twin = copy.deepcopy(model)
        quantize_ffns(twin, dict.fromkeys(increases) | {name: 4}, group_size=32)
        increases[name] = loss(twin, ids) - loss(model, ids)
    limit = sorted(increases.values())[len(increases) // 2] - 1e-5
    plan = plan_bits(model, ids, 4, max_increase=limit, group_size=32)
    assert {name for name, bits in plan.items() if bits == 4} == {
        name for name, increase in increases.items() if increase <= limit
    }


def test_what_four_bits_would_ruin_gets_eight():
    model, ids = relu_model(), tiny_tokens(24)
    ffn = ffns(model)[1]
    with torch.no_grad():  # all of the text hangs on one massive neuron of the second layer
        ffn.module.up_proj.weight[3] *= 1000
        row = ffn.down.weight[:, 3]
        row[0] = 200 * row.abs().max()
        model.model.norm.weight[0] = 0
    plan = plan_bits(model, ids, 4, max_increase=0.05, group_size=32)
    before, gate = loss(model, ids), "model.layers.0.mlp.gate_proj"
    assert plan == dict.fromkeys(plan, 4) | {gate: 8}
    for bits, is_ruined in ((8, False), (4, True)):
        twin = copy.deepcopy(model)
        quantize_ffns(twin, dict.fromkeys(plan) | {gate: bits}, group_size=32)
        assert (loss(twin, ids) > before + 0.05) == is_ruined


def loss(model, ids):
    with torch.no_grad():
        logits_BSV = model(ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits_BSV[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    ).item()


def test_planning_changes_nothing_and_shows_progress():
    model = relu_model()
    before, seen = logits(model), []
    plan = plan_bits(
        model, tiny_tokens(8), 4, group_size=32, on_projection=lambda *at: seen.append(at)
    )
    assert torch.equal(logits(model), before)
    assert seen == [(i + 1, len(plan)) for i in range(len(plan))]


def test_a_limit_that_nothing_passes_keeps_everything():
    model = relu_model()
    plan = plan_bits(model, tiny_tokens(8), 4, max_increase=-10.0, group_size=32)
    assert set(plan.values()) == {None}


def test_the_verb():
    model = tiny_model("llama", hidden_size=64)
    relufy_in_place(model, make_activation("relu"))
    plan = ps.quantize(model, tiny_tokens(8), max_increase=10.0)
    assert set(plan.values()) == {4}
    with pytest.raises(ps.UserError, match="quantized already"):
        ps.quantize(model, tiny_tokens(8))


def test_refusals(tmp_path):
    model = relu_model()
    with pytest.raises(ps.UserError, match="4 or 8 bits; found 3"):
        plan_bits(model, tiny_tokens(8), 3, group_size=32)
    with pytest.raises(ps.UserError, match=r"at least two tokens in a row; found \[2, 1\]"):
        plan_bits(model, tiny_tokens(1), 4, group_size=32)
    with pytest.raises(ps.UserError, match=r"multiple of it; that of model\.layers\.0\.mlp is 32"):
        quantize_ffns(model, 4)
    quantize_ffns(model, 4, group_size=32)
    with pytest.raises(ps.UserError, match="save the model before quantizing"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ps.UserError, match="accelerate without one"):
        ps.accelerate(tiny_quantized(), screened=True)


def tiny_quantized():
    model = tiny_model("llama", hidden_size=64)
    relufy_in_place(model, make_activation("relu"))
    quantize_ffns(model, 8)
    return model
