# SPDX-License-Identifier: Apache-2.0
"""`ps.quantize_in_place`: a loaded model, some text, and what can be saved afterwards."""

import copy

import pytest
import torch

import prosparse as ps
from prosparse.model.ffn import ffns
from prosparse.model.quantizing import hold_all, places
from prosparse.quantization.in_place import decide, held_only
from tests.model.test_quantized import logits, relu_model
from tests.model.tiny import tiny_tokens
from tests.quantization.test_trial import divergence


def test_what_four_bits_would_ruin_gets_eight():
    model = relu_model()
    ffn = ffns(model)[1]
    with torch.no_grad():
        model.lm_head.weight *= 20  # it is sure of what it says
        ffn.module.up_proj.weight[3] *= 100  # a neuron with massive activations
        ffn.down.weight[:, 3] *= 10
        # What it says itself, so that rounding can only hurt.
        ids = model.generate(tiny_tokens(4), max_new_tokens=24, do_sample=False, eos_token_id=-1)
    plan = decide(model, ids, 4, 0.05, False, group_size=32)
    assert {4, 8} <= set(plan.bits.values())

    def cost(bits):
        twin = copy.deepcopy(model)
        hold_all(twin, bits, places(twin, 32), 32)
        return divergence(model, twin, ids)

    assert cost(held_only(plan)) == pytest.approx(plan.divergence, abs=1e-5)
    assert plan.divergence <= 0.05 < cost(dict.fromkeys(plan.bits, 4))


def test_planning_changes_nothing_whatever_the_dtype():
    model = relu_model().to(torch.bfloat16)
    before = logits(model)
    decide(model, tiny_tokens(8), 4, 0.01, False, group_size=32)
    assert torch.equal(logits(model), before)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_it_can_be_saved_and_is_then_the_same(tmp_path):
    model = relu_model(hidden_size=64)
    bits = ps.quantize_in_place(model, tiny_tokens(8), max_perplexity_increase=1e4, progress=False)
    assert set(bits.values()) == {4}
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(ps.load(tmp_path)), logits(model))
    with pytest.raises(ps.UserError, match="quantized already"):
        ps.quantize_in_place(model, tiny_tokens(8))


def test_refusals():
    model = relu_model(hidden_size=64)
    with pytest.raises(ps.UserError, match="must be 8 or 4; found 3"):
        ps.quantize_in_place(model, tiny_tokens(8), bits=3)
    with pytest.raises(ps.UserError, match=r"at least two tokens in a row; found \[2, 1\]"):
        ps.quantize_in_place(model, tiny_tokens(1))
    with pytest.raises(ps.UserError, match=r"multiple of it; that of model\.layers\.0\.mlp is 32"):
        ps.quantize_in_place(relu_model(), tiny_tokens(8))
