# SPDX-License-Identifier: Apache-2.0
"""dReLU: the FFN computes relu(gate) * relu(up), and every station sees it so."""

import copy

import pytest
import torch

from prosparse.errors import UserError
from prosparse.kernels.backend import use_backend
from prosparse.model.ffn import ffns
from prosparse.model.gated import is_only_gated_ffn
from prosparse.model.relufy import activation_of, relufy_in_place
from prosparse.model.tap import tap
from prosparse.records.sparsity import Activation
from prosparse.training.fused_ffn import is_fusible
from prosparse.training.regularizer import SparsityPenalty
from tests.model.tiny import tiny_model

IDS = torch.arange(3, 15)[None]
DRELU, RELU = Activation("drelu"), Activation("relu")


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def by_hand(ffn, x):
    weights = ffn.weights()
    gate, up = x @ weights["gate_proj"].T, x @ weights["up_proj"].T
    return gate.relu() * up.relu()


@pytest.mark.parametrize("model_type", ["llama", "phi3", "qwen2", "gemma2"])
def test_x1_is_relu_of_both(model_type):
    model = tiny_model(model_type)
    dense = logits(model)
    relufy_in_place(model, DRELU)
    assert activation_of(model) == DRELU
    ffn = ffns(model)[1]
    x = torch.randn(1, 5, ffn.d_model)
    seen = []
    with torch.no_grad(), tap([ffn], lambda _, x1: seen.append(x1)):
        output = ffn.module(x)
    torch.testing.assert_close(seen[0], by_hand(ffn, x))
    torch.testing.assert_close(output, by_hand(ffn, x) @ ffn.weights()["down_proj"].T)
    assert is_only_gated_ffn(ffn)
    assert not torch.allclose(logits(model), dense)
    again = copy.deepcopy(model)
    assert torch.equal(logits(again), logits(model))


def test_it_comes_and_goes():
    model = tiny_model("llama", hidden_act="relu")
    before, classes = logits(model), [type(ffn.module) for ffn in ffns(model)]
    relufy_in_place(model, DRELU)
    relufy_in_place(model, DRELU)
    relufy_in_place(model, RELU)
    assert [type(ffn.module) for ffn in ffns(model)] == classes
    assert torch.equal(logits(model), before)


def test_the_penalty_is_that_of_its_x1():
    model = tiny_model("llama")
    relufy_in_place(model, DRELU)
    found, device = ffns(model), torch.device("cpu")
    with use_backend("reference"):
        assert not is_fusible(found[0], device)  # the fused kernel knows act(gate) * up only
    inputs = {}
    handles = [
        ffn.module.register_forward_pre_hook(
            lambda _, args, i=ffn.layer: inputs.update({i: args[0]})
        )
        for ffn in found
    ]
    penalty = SparsityPenalty(found, device)
    with penalty.attached(), penalty.collect(None):
        model(IDS)
        seen = penalty.take()
    for handle in handles:
        handle.remove()
    for ffn, l1, active in zip(found, seen.l1_L, seen.active_L, strict=True):
        x1 = by_hand(ffn, inputs[ffn.layer])
        torch.testing.assert_close(l1, x1.abs().sum())
        assert active == torch.count_nonzero(x1)
    penalty.total(seen).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "layers.0.mlp.up" in n)


@pytest.mark.parametrize("model_type", ["opt", "gpt2"])
def test_a_plain_ffn_has_no_gate(model_type):
    model = tiny_model(model_type)
    before = logits(model), activation_of(model)
    with pytest.raises(UserError, match="dReLU is ReLU on gate and up"):
        relufy_in_place(model, DRELU)
    assert torch.equal(logits(model), before[0])
    assert activation_of(model) == before[1]
    with pytest.raises(UserError, match="dReLU is ReLU on gate and up"):
        tiny_model(model_type, activation_function="drelu")
