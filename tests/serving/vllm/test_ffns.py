# SPDX-License-Identifier: Apache-2.0
"""Tiny models served by vLLM in this process: their greedy text is that of transformers."""

import pytest
import torch

from prosparse.model.activation import make_activation
from prosparse.model.relufy import relufy_in_place
from tests.conftest import byte_tokenizer
from tests.model.tiny import tiny_model

pytest.importorskip("vllm")

from prosparse.serving.vllm import ffns

# Widths that vLLM's attention on a CPU takes.
SIZES = {
    "vocab_size": 257,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
}
PROMPTS = [[5 + i, 40 + i, 99 - i, 7][: 2 + i % 3] for i in range(20)]
NEW_TOKENS = 12


@pytest.fixture
def served(monkeypatch, tmp_path):
    """Serve a model; return vLLM's model and the function that gives greedy tokens."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams

    def serve(model, max_tokens=16, **options):
        model.save_pretrained(tmp_path)
        byte_tokenizer().save_pretrained(tmp_path)
        llm = LLM(
            str(tmp_path),
            dtype="float32",
            enforce_eager=True,
            max_model_len=64,
            max_num_seqs=32,
            additional_config={"prosparse_max_tokens": max_tokens, **options},
        )
        sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)

        def answer(prompts):
            asked = [{"prompt_token_ids": prompt} for prompt in prompts]
            outputs = llm.generate(asked, sampling, use_tqdm=False)
            return [list(output.outputs[0].token_ids) for output in outputs]

        runner = llm.llm_engine.model_executor.driver_worker.model_runner
        return runner.model, answer

    return serve


def greedy(model, prompt) -> list[int]:
    """Ask before vLLM is there: it changes transformers' classes for its own use of them."""
    ids = torch.tensor([prompt])
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with torch.no_grad():
        return model.generate(ids, max_new_tokens=NEW_TOKENS, **options)[0, len(prompt) :].tolist()


def sparse_model(model_type, activation, **overrides):
    model = tiny_model(model_type, **{**SIZES, **overrides})
    relufy_in_place(model, activation)
    return model


def has_sparse_path(ffn) -> bool:
    return type(ffn.module).__name__.startswith("Sparse")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "name", "options"),
    [
        pytest.param("llama", "fatrelu", {"threshold": 0.05}, id="fatrelu"),
        pytest.param("llama", "drelu", {}, id="drelu"),
        pytest.param("gpt2", "relu", {}, id="plain, with biases"),
        pytest.param("gemma2", "fatrelu", {"threshold": 0.05}, id="another config key"),
        pytest.param("phi3", "fatrelu", {"threshold": 0.05}, id="fused in the checkpoint"),
        pytest.param("bloom", "relu", {}, id="a residual behind, no config key"),
        pytest.param("gpt_neox", "shifted_relu", {"bias": 0.05}, id="shifted"),
        pytest.param("smollm3", "fatrelu", {"threshold": 0.05}, id="transformers' code in vLLM"),
    ],
)
def test_greedy_tokens_are_those_of_transformers(served, model_type, name, options):
    model = sparse_model(model_type, make_activation(name, **options))
    expected = [greedy(model, prompt) for prompt in PROMPTS]
    network, answer = served(model)
    assert all(map(has_sparse_path, network.served_ffns))
    assert len(network.served_ffns) == 2
    assert answer(PROMPTS[:3]) == expected[:3]  # few at once
    assert answer(PROMPTS) == expected  # more than the sparse path takes
    assert answer(PROMPTS[3:4]) == expected[3:4]


@pytest.mark.slow
def test_every_layer_has_its_own_threshold(served):
    model = sparse_model("llama", make_activation("fatrelu", threshold=0.05))
    relufy_in_place(model, type(make_activation("relu"))("fatrelu", (0.0, 0.6)))
    expected = [greedy(model, prompt) for prompt in PROMPTS[:3]]
    network, answer = served(model)
    assert [ffn.activation.param for ffn in network.served_ffns] == [0.0, 0.6]
    assert answer(PROMPTS[:3]) == expected


@pytest.mark.slow
def test_weights_are_there_once_and_by_neurons(served):
    network, _ = served(sparse_model("llama", make_activation("relu")))
    for ffn in network.served_ffns:
        up, down = getattr(ffn.module, ffn.up).weight, getattr(ffn.module, ffn.down).weight
        assert up.shape == (2 * 192, 128)
        assert down.shape == (128, 192)
        assert down.T.is_contiguous()
        assert down.untyped_storage().nbytes() == down.numel() * 4


@pytest.mark.slow
def test_a_packed_copy_is_for_the_dense_path(served):
    model = sparse_model("llama", make_activation("fatrelu", threshold=0.05))
    expected = [greedy(model, prompt) for prompt in PROMPTS]
    network, answer = served(model, max_tokens=2, prosparse_packed_copy=True)
    assert all(map(has_sparse_path, network.served_ffns))
    assert answer(PROMPTS[:2]) == expected[:2]
    assert answer(PROMPTS) == expected


@pytest.mark.slow
def test_an_ffn_that_is_more_than_one_stays_dense(served, monkeypatch):
    monkeypatch.setattr(ffns, "_is_near", lambda a, b: False)
    model = sparse_model("llama", make_activation("fatrelu", threshold=0.05))
    expected = [greedy(model, prompt) for prompt in PROMPTS[:3]]
    network, answer = served(model)
    assert not any(map(has_sparse_path, network.served_ffns))
    assert answer(PROMPTS[:3]) == expected


@pytest.mark.slow
def test_without_a_sparse_path_it_is_vllms_own_dense_one(served):
    model = sparse_model("llama", make_activation("fatrelu", threshold=0.05))
    expected = [greedy(model, prompt) for prompt in PROMPTS[:3]]
    network, answer = served(model, max_tokens=0)
    assert network.served_ffns == []
    assert answer(PROMPTS[:3]) == expected


@pytest.mark.slow
def test_a_dense_model_is_served_as_ever(served):
    model = tiny_model("llama", **SIZES)
    expected = [greedy(model, prompt) for prompt in PROMPTS[:3]]
    network, answer = served(model)
    assert network.served_ffns == []
    assert answer(PROMPTS[:3]) == expected
