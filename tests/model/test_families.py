# SPDX-License-Identifier: Apache-2.0
"""Every row of FAMILIES against the modeling code of the installed transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, PreTrainedModel

from prosparse.model.checkpoint import load, save
from prosparse.model.families import FAMILIES
from prosparse.model.ffn import FFN, ffns
from prosparse.model.relufy import activation_of, relufy_in_place
from prosparse.model.tap import tap
from prosparse.records.sparsity import Activation
from tests.conftest import byte_tokenizer
from tests.model.tiny import tiny_model, tiny_tokens

RELU = Activation("relu")
FATRELU = Activation("fatrelu", 0.25)


@pytest.fixture(params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param)


def logits_of(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tiny_tokens()).logits


def intermediate_by_hand(ffn: FFN, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    """x_1 in the words of the paper, from weights alone."""
    weights = ffn.weights()
    up = linear(x, weights["up_proj"], ffn.module.get_submodule(ffn.family.up).bias)
    if not ffn.is_gated:
        return act(up)
    gate_bias = ffn.family.gate and ffn.module.get_submodule(ffn.family.gate).bias
    return act(linear(x, weights["gate_proj"], gate_bias)) * up


def ffn_by_hand(ffn: FFN, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    down = ffn.weights()["down_proj"]
    return linear(intermediate_by_hand(ffn, x, act), down, ffn.down.bias)


def input_and_output(model: PreTrainedModel, ffn: FFN) -> tuple[Tensor, Tensor]:
    """What entered and left the FFN's module in a real forward pass, without residual."""
    seen = {}

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        # falcon adds the attention's output in place
        seen[module] = [arg.clone() for arg in args], output.clone()

    up = ffn.module.get_submodule(ffn.family.up)
    inside_layer = ffn.family.ffn == ""  # opt: the module is the whole layer
    for module in (up, ffn.down) if inside_layer else (ffn.module,):
        module.register_forward_hook(note)
    logits_of(model)
    if inside_layer:
        return seen[up][0][0], seen[ffn.down][1]
    (x, *residual), y = seen[ffn.module]
    return x, y - sum(residual)  # bloom and mpt hand the residual in and add it


def test_weights_explain_what_the_ffn_computes(model):
    for ffn in ffns(model):
        x, y = input_and_output(model, ffn)
        assert y.abs().max() > 0.1
        assert_close(ffn_by_hand(ffn, x, ffn.activation), y)


def test_relufied_untrained_is_a_relu_ffn(model):
    before = activation_of(model)
    assert relufy_in_place(model, RELU) == before
    assert activation_of(model) == RELU
    for ffn in ffns(model):
        x, y = input_and_output(model, ffn)
        assert_close(ffn_by_hand(ffn, x, torch.relu), y)


# Stock transformers cannot say ReLU for the others: the round trip below covers them.
@pytest.mark.parametrize(
    "model", [name for name, family in FAMILIES.items() if family.config_key], indirect=True
)
def test_relufied_is_the_stock_model_built_with_relu(model):
    config = copy.deepcopy(model.config)
    setattr(config.get_text_config(), FAMILIES[config.model_type].config_key, "relu")
    stock = AutoModelForCausalLM.from_config(config).eval()

    relufy_in_place(model, RELU)

    stock.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(model), logits_of(stock))


@pytest.mark.parametrize("activation", [RELU, FATRELU], ids=lambda activation: activation.name)
def test_save_and_load_change_nothing(model, activation, tmp_path):
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dense_logits = logits_of(model)
    relufy_in_place(model, activation)
    logits = logits_of(model)
    assert not torch.equal(logits, dense_logits)

    save(model, byte_tokenizer(), tmp_path, base="tiny")
    loaded = load(tmp_path)

    assert activation_of(loaded) == activation
    assert torch.equal(logits_of(loaded), logits)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, dense.pop(name)), name
    # What is left went with the activation itself: apertus learns the shape of its xIELU.
    assert all(".act_fn." in name for name in dense)


def test_tap_sees_the_intermediate(model):
    found = ffns(model)
    relufy_in_place(model, RELU)
    seen = {}
    with tap(found, lambda layer, x_1: seen.update({layer: x_1})):
        logits_of(model)
    assert list(seen) == list(range(len(found)))
    for ffn in found:
        x, _ = input_and_output(model, ffn)
        x_1 = seen[ffn.layer]
        expected = intermediate_by_hand(ffn, x, torch.relu)
        assert x_1.shape[-1] == ffn.d_ff
        assert_close(x_1, expected)
        assert 0.2 < (x_1 == 0).float().mean() < 0.8
