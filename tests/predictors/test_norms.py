# SPDX-License-Identifier: Apache-2.0
"""One predictor before and after the norm chooses the same neurons."""

import pytest
import torch
from torch import nn

from prosparse.errors import UserError
from prosparse.model.ffn import ffns
from prosparse.model.ffn_inputs import tap_inputs
from prosparse.predictors.norms import as_reading, rms_gain
from prosparse.predictors.predictor import Predictor, Predictors
from tests.model.tiny import tiny_model, tiny_tokens


def shaken(model):
    """A model whose norms have weights other than 1."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data = torch.rand_like(parameter) + 0.5
    return model


def inputs_of(model, kind):
    seen = {}
    with torch.no_grad(), tap_inputs(model, ffns(model), kind, seen.__setitem__):
        model(tiny_tokens(12))
    return seen


def predictors(model, cut=0.0):
    torch.manual_seed(2)
    return Predictors(
        [Predictor(torch.randn(8, f.d_model), torch.randn(f.d_ff, 8), cut) for f in ffns(model)],
        "ffn-input",
    )


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "phi3"])
def test_the_same_neurons_from_the_residual_and_back(family):
    model = shaken(tiny_model(family, hidden_act="relu"))
    own = predictors(model)
    before, after = inputs_of(model, "residual"), inputs_of(model, "ffn-input")
    moved = as_reading(own, "residual", model)
    assert moved.reads == "residual"
    for layer, (a, b) in enumerate(zip(own.layers, moved.layers, strict=True)):
        chosen = a.predicts(after[layer])
        assert 0.1 < chosen.float().mean() < 0.9
        assert torch.equal(b.predicts(before[layer]), chosen)
    back = as_reading(moved, "ffn-input", model)
    for a, b in zip(own.layers, back.layers, strict=True):
        assert torch.allclose(a.fc1, b.fc1, atol=1e-5)


def test_a_cut_does_not_move():
    model = tiny_model("llama", hidden_act="relu")
    with pytest.raises(UserError, match=r"cut of 0; theirs are from 0\.5 to 0\.5"):
        as_reading(predictors(model, 0.5), "residual", model)
    same = predictors(model, 0.5)
    assert as_reading(same, "ffn-input", model) is same


def test_a_layer_norm_is_none_of_these():
    assert rms_gain(nn.LayerNorm(16), 16) is None
    assert rms_gain(nn.Identity(), 16) is None
    model = tiny_model("opt")
    with pytest.raises(UserError, match=r"takes an RMSNorm.*--input residual"):
        as_reading(predictors(model), "residual", model)


def test_the_gain_is_asked_for_and_not_read():
    norm = tiny_model("gemma2").model.layers[0].post_attention_layernorm
    torch.manual_seed(0)
    norm.weight.data = torch.randn_like(norm.weight)
    assert torch.allclose(rms_gain(norm, 32), 1 + norm.weight, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "gpt2", "falcon", "phi"])
def test_inputs_of_every_kind_of_layer(family):
    model = tiny_model(family)
    after = inputs_of(model, "ffn-input")
    assert sorted(after) == [0, 1]
    before = inputs_of(model, "residual")
    for layer, x in after.items():
        assert before[layer].shape == x.shape
        assert not torch.equal(before[layer], x)
