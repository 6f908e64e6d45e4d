# SPDX-License-Identifier: Apache-2.0
"""An accelerated model writes what it wrote before, and is what it was once that is removed."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

import prosparse as ps
from prosparse.kernels.backend import choose_backend
from prosparse.model.activation import SPARSE_ACTIVATIONS
from prosparse.runtime import accelerate as module
from prosparse.runtime.accelerate import is_accelerated
from prosparse.runtime.sparse_ffn import PATH
from tests.model.tiny import tiny_tokens
from tests.runtime.models import ACTIVATIONS, FAMILIES, logits, relu_model


def write(model, tokens, **options):
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    settings = {"attention_mask": torch.ones_like(tokens), **settings, **options}
    torch.manual_seed(0)
    return model.generate(tokens, **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_the_same_and_sparse(family, sparse_calls):
    model = relu_model(family, ACTIVATIONS[1])
    prompt = tiny_tokens(20, batch_size=1)
    expected = write(model, prompt)
    with ps.accelerate(model, max_tokens=16):
        assert torch.equal(write(model, prompt), expected)
    # One call for each layer and each token but the first, which the prompt's pass gives.
    assert sparse_calls == [1] * (2 * 7)


@pytest.mark.parametrize("family", FAMILIES)
def test_removal_gives_back_the_model(family):
    model = relu_model(family)
    long = tiny_tokens(20)
    expected, expected_long = logits(model), logits(model, long)
    classes = [type(module) for module in model.modules()]
    attributes = [sorted(vars(module)) for module in model.modules()]
    strides = [parameter.stride() for parameter in model.parameters()]
    accelerated = ps.accelerate(model, max_tokens=16)
    assert is_accelerated(model)
    accelerated.remove()
    accelerated.remove()
    assert not is_accelerated(model)
    assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model, long), expected_long)
    assert [type(module) for module in model.modules()] == classes
    assert [sorted(vars(module)) for module in model.modules()] == attributes
    assert [parameter.stride() for parameter in model.parameters()] == strides


@pytest.mark.parametrize("options", [
    {"do_sample": True, "temperature": 1.5},
    {"cache_implementation": "static"},
    {"num_beams": 2},
], ids=lambda options: next(iter(options)))  # fmt: skip
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_every_way_to_generate(family, options, sparse_calls):
    model = relu_model(family)
    prompt = tiny_tokens(20, batch_size=1)
    expected = write(model, prompt, **options)
    with ps.accelerate(model, max_tokens=16):
        assert torch.equal(write(model, prompt, **options), expected)
    assert sparse_calls


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_batches_padded_on_the_left(family, sparse_calls):
    model = relu_model(family)
    prompt = tiny_tokens(10, batch_size=3)
    mask = torch.ones_like(prompt)
    mask[1, :4] = 0
    prompt[mask == 0] = 0
    expected = write(model, prompt, attention_mask=mask)
    with ps.accelerate(model, max_tokens=16):
        assert torch.equal(write(model, prompt, attention_mask=mask), expected)
    assert set(sparse_calls) == {3}


def test_says_what_runs_where():
    model = relu_model()
    with ps.accelerate(model, max_tokens=16) as accelerated:
        backend = choose_backend(model.device)
        assert accelerated.backends == {
            "model.layers.0.mlp": backend,
            "model.layers.1.mlp": backend,
        }
        assert {"cuda", "triton"} <= set(accelerated.why_not)
        expected = f"Sparse FFNs: 2 on {backend}. The cuda backend needs"
        assert str(accelerated).startswith(expected)
    assert not is_accelerated(model)


def test_a_named_backend_holds_until_removal():
    with ps.accelerate(relu_model(), backend="reference") as accelerated:
        assert set(accelerated.backends.values()) == {"reference"}
    with pytest.raises(ps.UserError, match="The cuda backend needs an NVIDIA GPU"):
        ps.accelerate(relu_model(), backend="cuda")
    with pytest.raises(ps.UserError, match="no backend 'fast'; choose one of auto, cuda, triton"):
        ps.accelerate(relu_model(), backend="fast")


@pytest.mark.parametrize("max_tokens", [0, 17])
def test_max_tokens_out_of_range(max_tokens):
    with pytest.raises(ps.UserError, match=f"max_tokens must be from 1 to 16; found {max_tokens}"):
        ps.accelerate(relu_model(), max_tokens=max_tokens)


def test_a_failure_half_way_leaves_the_model_as_it_was(monkeypatch):
    model = relu_model()
    expected = logits(model)
    original, calls = module.make_neuron_major, []

    def fail_the_second_time(projection):
        calls.append(projection)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        original(projection)

    monkeypatch.setattr(module, "make_neuron_major", fail_the_second_time)
    with pytest.raises(torch.OutOfMemoryError):
        ps.accelerate(model, max_tokens=16)
    assert not is_accelerated(model)
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("family", ["llama", "phi3", "opt", "gpt2"])
def test_saves_as_a_stock_checkpoint(family, tmp_path):
    model = relu_model(family)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with ps.accelerate(model, max_tokens=16):
        state = model.state_dict()
        assert list(state) == list(before)
        assert all(torch.equal(state[name], weight) for name, weight in before.items())
        assert all(state[name].shape == weight.shape for name, weight in before.items())
        model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("family", ["llama", "phi3", "opt", "gpt2"])
def test_may_be_copied_and_cast(family, sparse_calls):
    model = relu_model(family)
    accelerated = ps.accelerate(model, max_tokens=16)
    expected = logits(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(logits(twin), expected)
    assert sparse_calls == [12] * 4
    sparse_calls.clear()
    twin.to(torch.bfloat16)
    error = (logits(twin).float() - expected).norm() / expected.norm()
    assert error < 0.05  # two layers of bfloat16
    assert sparse_calls == [12, 12]
    accelerated.remove()
    assert is_accelerated(twin)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_cast_model_is_given_back(family):
    model = relu_model(family)
    expected = logits(copy.deepcopy(model).bfloat16())
    with ps.accelerate(model, max_tokens=16):
        model.bfloat16()
    assert torch.equal(logits(model), expected)
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_every_sparse_activation_is_known():
    # dReLU is a forward too (tests/model/test_drelu.py), and CATS' activation is refused.
    here = {activation.name for activation in ACTIVATIONS}
    assert set(SPARSE_ACTIVATIONS) == here | {"drelu", "thresholded_silu"}


def test_a_screen_changes_nothing_and_follows_the_gate():
    model = relu_model(hidden_size=64)
    token = tiny_tokens(1, batch_size=1)
    with ps.accelerate(model, max_tokens=16):
        expected = logits(model, token)
    with ps.accelerate(model, screened=True):
        assert torch.equal(logits(model, token), expected)
        path = vars(model.model.layers[0].mlp)[PATH]
        before = path.screen.values
        assert before.dtype == torch.int8
        with torch.no_grad():
            model.model.layers[0].mlp.gate_proj.weight.mul_(-1)
        logits(model, token)
        assert torch.equal(path.screen.values, -before)


def test_a_screen_that_cannot_be_made_is_refused():
    with pytest.raises(ps.UserError, match="multiple of 64"):
        ps.accelerate(relu_model(), screened=True)
    with pytest.raises(ps.UserError, match="not for shifted ReLU"):
        ps.accelerate(relu_model(activation=ACTIVATIONS[2], hidden_size=64), screened=True)
