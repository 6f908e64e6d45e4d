# SPDX-License-Identifier: Apache-2.0
import pytest

import prosparse as ps
from prosparse.runtime import decodable
from prosparse.runtime.decodable import why_no_decoder
from prosparse.runtime.decode import Decoder
from tests.model.tiny import tiny_model

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3", "opt", "gpt2", "qwen3"])
def test_most_can(family):
    assert why_no_decoder(tiny_model(family)) is None


@pytest.mark.parametrize("family", ["mpt", "gpt_neo", "bloom"])
def test_a_cache_that_grows(family):
    model = tiny_model(family)
    assert why_no_decoder(model) == f"transformers runs '{family}' only with a cache that grows."
    with pytest.raises(ps.UserError, match="cannot be decoded by fixed steps: transformers runs"):
        Decoder(model, max_length=8)


def test_linear_attention():
    reason = why_no_decoder(tiny_model("qwen3_5_text"))
    assert reason == "'qwen3_5_text' keeps more of its past than keys and values."


def test_a_rotary_embedding_that_looks_at_the_length():
    reason = why_no_decoder(tiny_model("phi3", rope_parameters=LONGROPE, pad_token_id=0))
    assert reason == (
        "Its rotary embedding ('longrope') asks the host for the length at every step."
    )


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2"])
def test_an_attention_that_cannot_be_captured(attention, monkeypatch):
    monkeypatch.setattr(decodable, "CAPTURABLE", ("sdpa",))  # as before transformers 5.23
    model = tiny_model("llama")
    model.config._attn_implementation = attention
    assert why_no_decoder(model) == (
        f"Attention '{attention}' cannot be captured; load the model with attention 'sdpa'."
    )


def test_code_that_copies_from_the_host():
    reason = why_no_decoder(tiny_model("falcon"))
    assert reason is not None
    assert "'falcon' copies constants from the host" in reason


def test_weights_on_several_devices():
    model = tiny_model("llama")
    model.lm_head.to("meta")
    assert why_no_decoder(model) == "Its weights are spread over cpu, meta."
