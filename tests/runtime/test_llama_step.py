# SPDX-License-Identifier: Apache-2.0
"""When a decode step is one call, and that it is then the step it stands for."""

import pytest
import torch

import prosparse as ps
from prosparse.benchmarking.decode_check import dense_decode
from prosparse.kernels.backend import choose_backend, use_backend
from prosparse.runtime.decode import Decoder
from prosparse.runtime.llama_step import why_no_llama_step
from tests.model.tiny import tiny_tokens
from tests.runtime.models import ACTIVATIONS, relu_model

pytestmark = pytest.mark.skipif(
    choose_backend(torch.device("cpu")) != "cpu", reason="the CPU kernels were not compiled"
)


def decoder(model, batch_size=1, **options):
    found = Decoder(model, max_length=40, **options)
    found.prefill(tiny_tokens(6, batch_size=batch_size))
    return found


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_it_writes_what_the_dense_model_writes(activation):
    model, tokens = relu_model("llama", activation, eos_token_id=None), tiny_tokens(6, batch_size=1)
    expected = Decoder(model, max_length=40).generate(tokens, 30)
    with ps.accelerate(model):
        found = Decoder(model, max_length=40)
        assert torch.equal(found.generate(tokens, 30), expected)
        assert found._one_call is not None
        other = tiny_tokens(9, batch_size=1, seed=1)  # the same buffers again
        again = found.generate(other, 20)
    assert torch.equal(again, Decoder(model, max_length=40).generate(other, 20))


def test_bfloat16_logits_are_within_the_derived_bound():
    model, prompt = relu_model("llama").bfloat16(), tiny_tokens(6, batch_size=1)
    dense = dense_decode(model, prompt, 20)
    with ps.accelerate(model):
        step = decoder(model)._one_call
        for place, token in enumerate(dense.tokens[:-1]):
            step(token, prompt.shape[1] + place)
            off = (step.logits[0].float() - dense.logits[place + 1]).abs().max()
            assert off <= dense.bound


def test_steps_may_be_taken_again_and_all_counters_move():
    with ps.accelerate(model := relu_model("llama")):
        found = decoder(model)
        steps = [int(found.step()) for _ in range(4)]
        assert (found.length, int(found._cached), int(found._position)) == (11, 10, 10)
        found.rewind()
        assert [int(found.step()) for _ in range(4)] == steps


def test_several_prompts_and_padded_ones_go_the_other_way():
    with ps.accelerate(model := relu_model("llama")):
        assert decoder(model)._one_call is not None
        assert decoder(model, batch_size=2)._one_call is None
        assert decoder(model, one_call=False)._one_call is None
        padded = Decoder(model, max_length=40)
        padded.prefill(tiny_tokens(6, batch_size=1), torch.tensor([[0, 1, 1, 1, 1, 1]]))
        assert padded._one_call is None


@pytest.mark.parametrize("family", ["qwen3", "opt"])
def test_only_llamas(family):
    with ps.accelerate(model := relu_model(family)):
        assert why_no_llama_step(model) == "Only a Llama's step is one call."
        assert decoder(model)._one_call is None


def test_nothing_that_it_would_leave_out_is_left_out():
    model = relu_model("llama")
    assert "not accelerated" in why_no_llama_step(model)
    with ps.accelerate(model):
        assert why_no_llama_step(model) is None
        hook = model.model.layers[1].self_attn.register_forward_hook(lambda *_: None)
        assert "a hook" in why_no_llama_step(model)
        hook.remove()
        with torch.autocast("cpu", torch.bfloat16):
            assert "Autocast" in why_no_llama_step(model)
        with use_backend("reference"):
            assert "compiled kernels" in why_no_llama_step(model)
        projection = model.model.layers[0].self_attn.o_proj
        model.model.layers[0].self_attn.o_proj = torch.nn.Linear(
            projection.in_features, projection.out_features
        )
        assert "other kinds" in why_no_llama_step(model)
        model.model.layers[0].self_attn.o_proj = projection
        model.model.norm.double()
        assert "other dtypes" in why_no_llama_step(model)
