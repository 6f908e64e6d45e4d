# SPDX-License-Identifier: Apache-2.0
"""Layers in 8 and 4 bits: they compute what their values stand for, wherever the model goes."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import prosparse as ps
from prosparse.model.activation import make_activation
from prosparse.model.ffn import ffns
from prosparse.model.quantized import QuantizedEmbedding, QuantizedLinear, QuantizedMatrix, TiedHead
from prosparse.model.quantizing import ffn_places, has_tied_head, hold_all, places, quantize_ffns
from prosparse.model.relufy import relufy_in_place
from tests.model.tiny import tiny_model, tiny_tokens

FAMILIES = ["llama", "phi3", "opt", "gpt2"]


def relu_model(model_type="llama", **overrides):
    model = tiny_model(model_type, **overrides)
    relufy_in_place(model, make_activation("relu"))
    return model


def quantized(model_type="llama", bits=8, **overrides):
    model = relu_model(model_type, **overrides)
    found = places(model, 32)
    hold_all(model, {place.name: bits for place in found}, found, 32)
    return model


def logits(model):
    with torch.no_grad():
        return model(tiny_tokens(6), use_cache=False).logits


def with_rounded_weights(plain, packed):
    """A copy of `plain` whose weights are what the layers of `packed` stand for."""
    twin = copy.deepcopy(plain)
    for name, module in packed.named_modules():
        if isinstance(module, QuantizedMatrix):
            there = twin.get_submodule(name)
            rows = module.rows()
            is_down = isinstance(module, QuantizedLinear) and module.is_down
            there.weight.data = rows.T if isinstance(there, Conv1D) != is_down else rows
    return twin


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("model_type", [*FAMILIES, "bloom", "gemma2"])
def test_a_quantized_model_is_the_model_with_rounded_weights(model_type, bits):
    plain, packed = relu_model(model_type), quantized(model_type, bits)
    torch.testing.assert_close(logits(packed), logits(with_rounded_weights(plain, packed)))
    assert not torch.equal(logits(packed), logits(plain))
    assert [(f.d_ff, f.d_model) for f in ffns(packed)] == [(f.d_ff, f.d_model) for f in ffns(plain)]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_accelerated_it_computes_the_same(model_type, bits):
    model = quantized(model_type, bits)
    before = logits(model)
    with ps.accelerate(model, max_tokens=16):
        torch.testing.assert_close(logits(model), before)
    assert torch.equal(logits(model), before)


def test_neurons_are_rows_and_groups_lie_along_d_model():
    down = ffns(relu_model())[0].down
    weight = down.weight.detach()
    packed = QuantizedLinear(down, 8, is_down=True, group_size=32)
    d_model, d_ff = weight.shape
    assert packed.weight.shape == (d_ff, d_model // 32, 32)
    assert packed.values.shape == weight.T.shape
    steps = (packed.rows() - weight.T).abs().reshape(*packed.scales.shape, 32)
    assert (steps <= packed.scales.float().unsqueeze(-1) * 0.501).all()


@pytest.mark.parametrize(("bits", "width"), [(8, 32), (4, 16)])
def test_a_stored_weight_never_has_the_shape_of_a_plain_one(bits, width):
    for projection in (nn.Linear(32, 32), nn.Linear(64, 32), Conv1D(32, 32)):
        for is_down in (False, True):
            packed = QuantizedLinear(projection, bits, is_down=is_down, group_size=32)
            assert packed.weight.dim() == 3
            assert packed.weight.shape[-1] == width


def test_all_linear_layers_and_the_table_are_found_and_a_tied_head_goes_with_it():
    model = relu_model("llama", tie_word_embeddings=True)
    found = places(model, 32)
    assert found[0].name == "model.embed_tokens"
    assert len(found) == 1 + 2 * 7
    assert [p.name for p in found if p.is_down] == [f"{f.name}.down_proj" for f in ffns(model)]
    assert has_tied_head(model)
    hold_all(model, {"model.embed_tokens": 8}, found, 32)
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(table, QuantizedEmbedding)
    assert isinstance(head, TiedHead)
    assert "lm_head.weight" not in model.state_dict()
    assert [p.name for p in places(relu_model("llama"), 32)][-1] == "lm_head"


def test_a_tied_head_stays_tied_when_the_model_is_copied_or_moved():
    model = quantized("llama", tie_word_embeddings=True)
    twin = copy.deepcopy(model).to(torch.bfloat16)
    table, head = twin.get_input_embeddings(), twin.get_output_embeddings()
    assert head.scales.data_ptr() == table.scales.data_ptr()
    assert head.scales.data_ptr() != model.get_input_embeddings().scales.data_ptr()


def test_casting_a_model_keeps_its_scales_and_its_values():
    model = quantized()
    held = [module for module in model.modules() if isinstance(module, QuantizedMatrix)]
    before = [module.rows() for module in held]
    model.to(torch.bfloat16)
    assert logits(model).dtype == torch.bfloat16
    assert {module.scales.dtype for module in held} == {torch.float16}
    assert ffns(model)[0].weights()["up_proj"].dtype == torch.bfloat16
    model.to(torch.float32)
    for module, rows in zip(held, before, strict=True):
        assert torch.equal(module.rows(), rows)


def test_layers_whose_rows_are_no_whole_groups_stay():
    model = relu_model("llama", head_dim=12)  # o_proj has 48 inputs
    names = {place.name.rpartition(".")[2] for place in places(model, 32)}
    assert "o_proj" not in names
    assert "q_proj" in names


def test_only_what_was_named():
    model = relu_model()
    names = [place.name for place in ffn_places(model)]
    quantize_ffns(model, {names[0]: 4, names[-1]: 8}, group_size=32)
    kinds = [getattr(place.module, "bits", None) for place in ffn_places(model)]
    assert kinds == [4, *[None] * (len(names) - 2), 8]
    before = logits(model)
    with ps.accelerate(model, max_tokens=16):
        torch.testing.assert_close(logits(model), before)


def test_refusals():
    with pytest.raises(ps.UserError, match=r"multiple of it; that of model\.layers\.0\.mlp is 32"):
        quantize_ffns(relu_model(), 4)
    with pytest.raises(ps.UserError, match="quantized already"):
        places(quantized(), 32)
    with pytest.raises(ps.UserError, match="accelerate without one"):
        ps.accelerate(quantized(bits=8, hidden_size=64), screened=True)
