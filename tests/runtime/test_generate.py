# SPDX-License-Identifier: Apache-2.0
"""Generated text: greedy, sampled, streamed, in conversation."""

import pytest
import torch

import prosparse as ps
from prosparse.runtime import generate as module
from prosparse.runtime.accelerate import is_accelerated
from prosparse.runtime.llama_step import LlamaStep

PROMPT = "The number"


@pytest.fixture
def model(relu_checkpoint):
    return ps.load(relu_checkpoint)


@pytest.fixture
def tokenizer(relu_checkpoint):
    return ps.load_tokenizer(relu_checkpoint)


def test_greedy_is_what_transformers_writes(model, tokenizer, relu_checkpoint):
    inputs = tokenizer(PROMPT, return_tensors="pt")
    expected = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=12,
        do_sample=False,
    )[0, inputs["input_ids"].shape[1] :]
    expected = tokenizer.decode(expected, skip_special_tokens=True)
    assert ps.generate(relu_checkpoint, PROMPT, max_new_tokens=12) == expected
    assert ps.generate(model, PROMPT, max_new_tokens=12) == expected


def test_the_pieces_make_the_text(model):
    pieces = []
    text = ps.generate(
        model, "a b", max_new_tokens=24, on_text=pieces.append, temperature=2.0, seed=3
    )
    assert "".join(pieces) == text
    assert len(pieces) > 1


def test_a_seed_repeats_a_sample_and_another_does_not(model):
    def sample(seed):
        return ps.generate(model, PROMPT, max_new_tokens=16, temperature=1.5, seed=seed)

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_sampling_looks_at_all_tokens(model, monkeypatch):
    seen = {}
    original = model.generate
    monkeypatch.setattr(
        model, "generate", lambda **kwargs: seen.update(kwargs) or original(**kwargs)
    )
    ps.generate(model, PROMPT, max_new_tokens=1, temperature=0.7, top_p=0.9)
    assert (seen["do_sample"], seen["temperature"], seen["top_p"]) == (True, 0.7, 0.9)
    assert seen["top_k"] == 0
    ps.generate(model, PROMPT, max_new_tokens=1)
    assert not seen["do_sample"]


def test_a_tiny_top_p_is_greedy(model):
    sampled = ps.generate(model, PROMPT, max_new_tokens=8, temperature=1.0, top_p=1e-6)
    assert sampled == ps.generate(model, PROMPT, max_new_tokens=8)


def test_a_conversation_goes_through_the_template(model, tokenizer):
    turns = [{"role": "user", "content": "Hi"}]
    rendered = "user: Hi\nassistant:"
    assert (
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False) == rendered
    )
    assert ps.generate(model, turns, max_new_tokens=8) == ps.generate(
        model, rendered, max_new_tokens=8
    )


def test_at_most_so_many_tokens(model):
    lengths = []
    model.register_forward_hook(lambda *args: lengths.append(1))
    ps.generate(model, PROMPT, max_new_tokens=5)
    assert len(lengths) <= 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "--tokens must be at least 1; found 0"),
        ({"temperature": -1.0}, "--temperature must be >= 0; found -1.0"),
        ({"temperature": float("nan")}, "--temperature must be >= 0; found nan"),
        ({"top_p": 0.0}, r"--top-p must be in \(0, 1\]; found 0.0"),
        ({"top_p": 1.5}, r"--top-p must be in \(0, 1\]; found 1.5"),
        ({"prompt": ""}, "--prompt is empty"),
        ({"device": "toaster"}, "Device 'toaster'"),
        (
            {"backend": "fast"},
            "--backend must be one of dense, sparse, screened, predicted; found 'fast'",
        ),
    ],
)
def test_wrong_options_are_known_before_the_weights_are_read(
    options, message, relu_checkpoint, monkeypatch
):
    monkeypatch.setattr(module, "load", pytest.fail)
    with pytest.raises(ps.UserError, match=message):
        ps.generate(relu_checkpoint, **{"prompt": PROMPT, **options})


def test_no_chat_template(model, tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ps.UserError, match="has no chat template; use --prompt instead"):
        ps.generate(model, [{"role": "user", "content": "Hi"}], tokenizer=tokenizer)


def test_a_model_from_nowhere_needs_a_tokenizer(model, tokenizer):
    expected = ps.generate(model, PROMPT, max_new_tokens=4)
    model.config.name_or_path = ""
    with pytest.raises(ps.UserError, match="its tokenizer"):
        ps.generate(model, PROMPT, max_new_tokens=4)
    assert ps.generate(model, PROMPT, max_new_tokens=4, tokenizer=tokenizer) == expected


def test_nothing_of_the_generation_is_kept_for_gradients(model):
    ps.generate(model, PROMPT, max_new_tokens=2)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


@pytest.fixture
def one_calls(monkeypatch):
    """The positions of the tokens that were read in one call each."""
    calls, original = [], LlamaStep.__call__

    def noted(self, token, position):
        calls.append(position)
        return original(self, token, position)

    monkeypatch.setattr(LlamaStep, "__call__", noted)
    return calls


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}])
def test_sparse_text_is_dense_text(model, relu_checkpoint, sparse_calls, one_calls, options):
    options = {"max_new_tokens": 12, **options}
    expected = ps.generate(model, PROMPT, **options)
    assert not sparse_calls + one_calls
    assert ps.generate(model, PROMPT, backend="sparse", **options) == expected
    assert sparse_calls + one_calls
    assert not is_accelerated(model)
    assert ps.generate(relu_checkpoint, PROMPT, backend="sparse", **options) == expected


def test_an_accelerated_model_stays_accelerated(model, sparse_calls, one_calls):
    with ps.accelerate(model, max_tokens=1):
        ps.generate(model, PROMPT, max_new_tokens=3, backend="sparse")
        assert is_accelerated(model)
    assert set(sparse_calls) == {1} or len(one_calls) == 2


def test_a_dense_model_has_no_sparse_text(checkpoint):
    with pytest.raises(ps.UserError, match="no zeros to skip; .* prosparse relufy"):
        ps.generate(checkpoint, PROMPT, backend="sparse")


def test_the_pace_is_told_once(model):
    paces = []
    ps.generate(model, PROMPT, max_new_tokens=6, on_pace=paces.append)
    (pace,) = paces
    assert pace.num_tokens == pace.num_timed + 1 <= 6
    assert pace.seconds > 0


@pytest.mark.parametrize("backend", ["dense", "sparse"])
def test_fixed_steps_write_the_same(model, monkeypatch, backend):
    """What a GPU would do, here without a graph."""
    expected = ps.generate(model, PROMPT, max_new_tokens=20)
    pieces, paces = [], []
    monkeypatch.setattr(module, "_suits_replay", lambda network: True)
    monkeypatch.setattr(model, "generate", pytest.fail)
    options = {"on_text": pieces.append, "on_pace": paces.append, "backend": backend}
    assert ps.generate(model, PROMPT, max_new_tokens=20, **options) == expected
    assert "".join(pieces) == expected
    sampled = {"max_new_tokens": 20, "temperature": 1.5, "seed": 4}
    assert ps.generate(model, PROMPT, **sampled) == ps.generate(model, PROMPT, **sampled)
    greedy = ps.generate(model, PROMPT, max_new_tokens=20, temperature=1.0, top_p=1e-6)
    assert greedy == expected


def test_fixed_steps_only_where_they_are_the_same(model, monkeypatch):
    assert not module._suits_replay(model)
    gpu = torch.device("cuda")
    monkeypatch.setattr(type(model), "device", property(lambda self: gpu))
    assert module._suits_replay(model)
    model.generation_config.repetition_penalty = 1.1  # transformers knows what it means
    assert not module._suits_replay(model)
