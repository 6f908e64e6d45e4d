# SPDX-License-Identifier: Apache-2.0
"""Fixed steps write what `model.generate` writes. The CUDA graph itself needs a GPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import import_utils

import prosparse as ps
from prosparse.runtime.decode import Decoder
from prosparse.runtime.together import LaunchTogether
from tests.model.tiny import VOCAB_SIZE, tiny_model, tiny_tokens


def expected_ids(model, tokens, count, mask=None, **options):
    mask = torch.ones_like(tokens) if mask is None else mask
    return model.generate(
        tokens, attention_mask=mask, max_new_tokens=count, do_sample=False, **options
    )


@pytest.fixture
def model():
    return tiny_model("llama", hidden_act="relu", eos_token_id=None)


# Rotary, learned positions with an offset, learned positions.
@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_greedy_ids_are_those_of_generate(family):
    model = tiny_model(family, eos_token_id=None)
    tokens = tiny_tokens(6)
    decoder = Decoder(model, max_length=30)
    assert torch.equal(decoder.generate(tokens, 24), expected_ids(model, tokens, 24))
    other = tiny_tokens(9, seed=1)  # the same buffers again
    assert torch.equal(decoder.generate(other, 12), expected_ids(model, other, 12))


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_prompts_padded_on_the_left(family):
    model = tiny_model(family, eos_token_id=None)
    tokens = tiny_tokens(8, batch_size=3)
    mask = torch.ones_like(tokens)
    mask[1, :5] = 0
    tokens[mask == 0] = 0
    found = Decoder(model, max_length=24).generate(tokens, 16, attention_mask=mask)
    assert torch.equal(found, expected_ids(model, tokens, 16, mask))


@pytest.mark.parametrize("family", ["gemma2", "mistral"])
@pytest.mark.parametrize("length", [3, 12])
def test_sliding_windows_slide(family, length):
    model = tiny_model(family, sliding_window=8, eos_token_id=None)
    tokens = tiny_tokens(length)
    found = Decoder(model, max_length=length + 20).generate(tokens, 20)
    assert torch.equal(found, expected_ids(model, tokens, 20))


def test_ends_where_generate_ends(model):
    tokens = tiny_tokens(6, batch_size=3)
    free = expected_ids(model, tokens, 24)
    ends = [int(free[0, 9]), int(free[1, 20])]  # rows end at different steps, if they do
    model.generation_config.eos_token_id = ends
    for check_every in (1, 5, 100):
        found = Decoder(model, max_length=30).generate(tokens, 24, check_every=check_every)
        assert torch.equal(found, expected_ids(model, tokens, 24))
    found = Decoder(model, max_length=30).generate(tokens[:1], 24)
    assert torch.equal(found, expected_ids(model, tokens[:1], 24))
    assert found.shape[1] <= 10


def test_pieces_come_as_they_are_looked_at(model):
    pieces = list(Decoder(model, max_length=30).stream(tiny_tokens(6), 10, check_every=4))
    assert [tuple(piece.shape) for piece in pieces] == [(2, 4), (2, 4), (2, 2)]


def test_the_sparse_model_writes_the_same(model, sparse_calls):
    tokens = tiny_tokens(20, batch_size=1)
    expected = Decoder(model, max_length=30).generate(tokens, 10)
    with ps.accelerate(model):
        decoder = Decoder(model, max_length=30, one_call=False)
        assert torch.equal(decoder.generate(tokens, 10), expected)
    assert sparse_calls == [1] * (2 * 9)


def test_steps_may_be_taken_again(model):
    decoder = Decoder(model, max_length=16)
    first = decoder.prefill(tiny_tokens(6))
    assert first.shape == (2, 1)
    steps = [decoder.step().clone() for _ in range(4)]
    decoder.rewind()
    assert all(torch.equal(decoder.step(), step) for step in steps)
    assert decoder.length == 11
    assert decoder.seconds_per_step(3) > 0


def test_a_graph_of_other_weights_is_forgotten(model):
    decoder = Decoder(model, max_length=16)
    decoder.prefill(tiny_tokens(6))
    decoder._graph = captured = object()
    decoder.prefill(tiny_tokens(6))
    assert decoder._graph is captured
    with ps.accelerate(model):
        decoder.prefill(tiny_tokens(6))
        assert decoder._graph is None


def test_compiled_to_one_graph(model, monkeypatch):
    torch._dynamo.reset()
    compile_ = torch.compile
    asked = []

    def compiled(function, *, options, fullgraph):
        asked.append((options, fullgraph))
        return compile_(function, backend="eager", fullgraph=fullgraph)

    monkeypatch.setattr(torch, "compile", compiled)
    tokens = tiny_tokens(6)
    with ps.accelerate(model):
        decoder = Decoder(model, max_length=20, compile="max-autotune-no-cudagraphs")
        found = decoder.generate(tokens, 12)
        with torch.compiler.set_stance("fail_on_recompile"):
            assert torch.equal(decoder.generate(tokens, 12), found)
    assert isinstance(asked[0][0].pop("post_grad_custom_pre_pass"), LaunchTogether)
    options = {
        "max_autotune": True,
        "coordinate_descent_tuning": True,
        "realize_reads_threshold": 1,
    }
    assert asked == [(options, True)]
    assert torch.equal(found, expected_ids(model, tokens, 12))


def test_all_layers_count_their_tokens_in_one_place(model):
    decoder = Decoder(model, max_length=20)
    decoder.prefill(tiny_tokens(6))
    decoder.step()
    lengths = [layer.get_seq_length() for layer in decoder._cache.layers]
    assert all(length is lengths[0] for length in lengths)
    assert lengths[0] == 7


class NothingFromTheHost(TorchDispatchMode):
    """Fails where the host reads a value that the device computed, or sends it a constant."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        asks = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "lift_fresh")
        assert func.overloadpacket.__name__ not in asks, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "phi3", "opt", "gpt2"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_step_asks_the_host_for_nothing(family, temperature, monkeypatch):
    model = tiny_model(family)
    decoder = Decoder(model, max_length=16, temperature=temperature, top_p=0.9)
    decoder.prefill(tiny_tokens(6))
    # As during a capture, when transformers knows that it must not look.
    monkeypatch.setattr(import_utils, "is_cuda_stream_capturing", lambda: True)
    with NothingFromTheHost():
        decoder.step()


def test_sampling_follows_the_probabilities(model):
    tokens = tiny_tokens(6, batch_size=1).expand(2000, -1)
    with torch.no_grad():
        expected = (model(tokens[:1]).logits[0, -1] / 0.7).softmax(dim=-1)
    kept, order = expected.sort(descending=True)
    kept[kept.cumsum(0) - kept >= 0.6] = 0
    expected = torch.zeros(VOCAB_SIZE).scatter(0, order, kept / kept.sum())
    torch.manual_seed(0)
    first = Decoder(model, max_length=8, temperature=0.7, top_p=0.6).prefill(tokens)
    found = torch.bincount(first.flatten(), minlength=VOCAB_SIZE) / len(tokens)
    assert (found[expected == 0] == 0).all()
    # Four standard errors of a share.
    assert ((found - expected).abs() <= 4 * (expected * (1 - expected) / 2000).sqrt()).all()


def test_no_room(model):
    decoder = Decoder(model, max_length=8)
    with pytest.raises(ValueError, match="leave no room below max_length 8"):
        decoder.prefill(tiny_tokens(8))
    with pytest.raises(ValueError, match="9 tokens are more than max_length 8"):
        next(decoder.stream(tiny_tokens(4), 5))
    decoder.prefill(tiny_tokens(4))
    with pytest.raises(ValueError, match="holds 2 prompts at once; found 1"):
        decoder.prefill(tiny_tokens(4, batch_size=1))
