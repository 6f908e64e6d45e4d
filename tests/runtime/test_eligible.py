# SPDX-License-Identifier: Apache-2.0
"""Models that cannot be accelerated are refused in one sentence, untouched."""

import pytest
import torch
from torch import nn

import prosparse as ps
from prosparse.model.activation import FATReLU
from prosparse.model.families import FAMILIES
from prosparse.model.ffn import ffns
from prosparse.runtime.accelerate import is_accelerated
from tests.model.tiny import tiny_model, tiny_tokens


def refused(model, words):
    strides = [parameter.stride() for parameter in model.parameters()]
    with pytest.raises(ps.UserError, match=words):
        ps.accelerate(model)
    assert not is_accelerated(model)
    assert [parameter.stride() for parameter in model.parameters()] == strides


@pytest.fixture
def model():
    return tiny_model("llama", hidden_act="relu")


@pytest.mark.parametrize(("family", "name"), [("llama", "SiLU"), ("gpt2", "NewGELU")])
def test_a_dense_activation(family, name):
    refused(tiny_model(family), rf"is {name}.*no zeros to skip; .* prosparse relufy")


def test_one_dense_activation_among_sparse_ones(model):
    ffns(model)[1].set_activation(nn.SiLU())
    refused(model, r"model\.layers\.1\.mlp is SiLU")


@pytest.mark.parametrize("threshold", [-0.5, float("nan"), None])
def test_a_threshold_below_zero_or_none(model, threshold):
    ffns(model)[0].set_activation(FATReLU(threshold))
    refused(model, "must be finite and >= 0; found")


def test_what_is_not_a_model(model):
    with pytest.raises(ps.UserError, match="found a OptimizedModule: accelerate it first"):
        ps.accelerate(torch.compile(model))


def test_twice(model):
    accelerated = ps.accelerate(model)
    with pytest.raises(ps.UserError, match=r"accelerated already; call remove\(\)"):
        ps.accelerate(model)
    assert is_accelerated(model)
    accelerated.remove()
    ps.accelerate(model).remove()


def test_tied_weights(model):
    first, second = (ffn.down for ffn in ffns(model))
    second.weight = first.weight
    refused(model, r"layers\.0\.mlp\.down_proj\.weight and .*layers\.1.* are one weight")


def test_a_weight_that_is_a_view_of_another(model):
    first, second = (ffn.down for ffn in ffns(model))
    second.weight = nn.Parameter(first.weight.data)
    refused(model, "are one weight")


def test_a_shared_activation(model):
    shared = nn.ReLU()
    for ffn in ffns(model):
        ffn.set_activation(shared)
    refused(model, "share one activation module")


class QuantizedLinear(nn.Linear):
    """As transformers' integrations make them: a Linear by name, and another forward."""


def test_a_projection_of_another_kind(model):
    ffns(model)[1].down.__class__ = QuantizedLinear
    refused(model, r"model\.layers\.1\.mlp\.down_proj is a QuantizedLinear")


def test_a_parametrized_weight(model):
    nn.utils.parametrizations.weight_norm(ffns(model)[0].module.up_proj)
    refused(model, "weight of its own kind|not built as expected")


def test_weights_of_another_dtype(model):
    refused(model.double(), "has float64 weights; accelerate takes float32, bfloat16 and float16")


def test_offloaded_weights(model, tmp_path):
    from accelerate import cpu_offload

    expected = [ffn.name for ffn in ffns(model)]
    cpu_offload(model, execution_device="cpu")
    refused(model, f"replaced the forward of a .* in {expected[0]}")


def test_weights_that_are_not_here():
    with torch.device("meta"):
        model = tiny_model("llama", hidden_act="relu")
    refused(model, "has no weights here")


def test_an_ffn_that_does_more(model):
    mlp = ffns(model)[0].module

    class Scaled(type(mlp)):
        def forward(self, x):
            return 2 * super().forward(x)

    mlp.__class__ = Scaled
    refused(model, r"\(Scaled\) computes more than down")


def test_an_ffn_that_wants_more(model):
    mlp = ffns(model)[0].module

    class WithResidual(type(mlp)):
        def forward(self, x, residual):
            return super().forward(x) + residual

    mlp.__class__ = WithResidual
    refused(model, r"\(WithResidual\) computes more than down")


@pytest.mark.parametrize("family", ["llama", "phi3", "opt"])
def test_a_family_found_by_its_structure(family, monkeypatch, sparse_calls):
    monkeypatch.delitem(FAMILIES, family)
    own = "activation_function" if family == "opt" else "hidden_act"
    model = tiny_model(family, **{own: "relu"})
    tokens = tiny_tokens(3)
    with torch.no_grad():
        expected = model(tokens).logits
        with ps.accelerate(model, max_tokens=6):
            torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-5, atol=1e-5)
            assert len(ffns(model)) == 2  # its structure is still understood
    assert sparse_calls == [6, 6]
