# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from prosparse.errors import UserError
from prosparse.model.ffn import ffns
from tests.model.tiny import D_FF, D_MODEL, tiny_model


@pytest.mark.parametrize(
    ("model_type", "name", "roles"),
    [
        pytest.param("llama", "model.layers.1.mlp", "gate_proj up_proj down_proj", id="gated"),
        pytest.param("phi3", "model.layers.1.mlp", "gate_proj up_proj down_proj", id="fused"),
        pytest.param("gpt2", "transformer.h.1.mlp", "up_proj down_proj", id="transposed"),
        pytest.param("opt", "model.decoder.layers.1", "up_proj down_proj", id="no FFN module"),
    ],
)
def test_one_vocabulary_for_all(model_type, name, roles):
    model = tiny_model(model_type)
    found = ffns(model)
    assert [ffn.layer for ffn in found] == [0, 1]
    ffn = found[1]
    assert ffn.name == name
    assert ffn.module is model.get_submodule(name)
    assert ffn.is_gated == ("gate_proj" in roles)
    assert (ffn.d_model, ffn.d_ff) == (D_MODEL, D_FF)
    weights = ffn.weights()
    assert list(weights) == roles.split()
    assert weights.pop("down_proj").shape == (D_MODEL, D_FF)
    assert {weight.shape for weight in weights.values()} == {(D_FF, D_MODEL)}


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2"])
def test_weights_are_views_of_the_parameters(model_type):
    ffn = ffns(tiny_model(model_type))[0]
    storages = {p.untyped_storage().data_ptr() for p in ffn.module.parameters()}
    with torch.no_grad():
        for weight in ffn.weights().values():
            assert weight.untyped_storage().data_ptr() in storages
            weight[3, 5] = 7.0
    for weight in ffn.weights().values():
        assert weight[3, 5] == 7.0


def test_gradients_reach_the_parameters_through_the_views():
    ffn = ffns(tiny_model("phi3"))[0]
    ffn.weights()["gate_proj"].sum().backward()
    gradient = ffn.module.gate_up_proj.weight.grad
    assert torch.equal(gradient[:D_FF], torch.ones(D_FF, D_MODEL))
    assert not gradient[D_FF:].any()


def test_set_activation_replaces_the_module_of_that_layer():
    model = tiny_model("gpt_neox")
    first, second = ffns(model)
    first.set_activation(nn.ReLU())
    assert isinstance(first.activation, nn.ReLU)
    assert model.gpt_neox.layers[0].mlp.act is first.activation
    assert not isinstance(second.activation, nn.ReLU)


def test_a_model_without_language_head_is_refused():
    with pytest.raises(UserError, match="LlamaModel.*'llama'.*has no attribute `model`"):
        ffns(tiny_model("llama").model)


def test_layers_that_are_not_alike_are_refused():
    model = tiny_model("llama")
    del model.model.layers[1].mlp.gate_proj
    with pytest.raises(UserError, match="has no attribute `gate_proj`"):
        ffns(model)
