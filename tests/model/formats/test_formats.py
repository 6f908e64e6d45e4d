# SPDX-License-Identifier: Apache-2.0
"""Each published format loads, computes what it should, is saved as a stock model and loads again."""

from __future__ import annotations

import json

import pytest
import torch

import prosparse as ps
from prosparse.errors import UserError
from prosparse.model.checkpoint import check_model, save, skeleton
from prosparse.model.ffn import ffns
from prosparse.model.relufy import activation_of
from prosparse.runtime import sparse_ffn
from tests.model.formats.cases import CASES, PLAIN_SAKANA, SPELLED
from tests.model.formats.published import (
    CATS,
    IDS,
    MINICPM_S,
    NUM_LAYERS,
    PROSPARSE_LLAMA2,
    RELU_LLAMA,
    SAKANA,
    TURBO_SPARSE,
    by_hand,
    tensors,
    write,
)


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    config, shapes, x1, becomes = CASES[request.param]
    weights = tensors(**shapes)
    return write(tmp_path / "published", config, weights), by_hand(config, weights, x1), becomes


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def test_logits_are_those_by_hand_and_stay_so(case, tmp_path):
    folder, expected, (model_type, activation) = case
    network = ps.load(folder)
    assert network.config.model_type == model_type
    assert activation_of(network) == activation
    found = logits(network)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    save(network, ps.load_tokenizer(folder), tmp_path, base=str(folder))
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == model_type
    assert saved["architectures"] == [type(network).__name__]
    assert torch.equal(logits(ps.load(tmp_path)), found)


def test_without_reading_weights(case):
    folder, _, (model_type, _) = case
    check_model(folder)
    assert skeleton(folder).config.model_type == model_type


def test_what_turbosparse_adds_for_its_predictor_is_passed_over(tmp_path):
    weights = tensors()
    plain = logits(ps.load(write(tmp_path / "plain", TURBO_SPARSE, weights)))
    for layer in range(NUM_LAYERS):
        for name, shape in {"fc1": (8, 32), "fc2": (48, 8)}.items():
            weights[f"model.layers.{layer}.mlp.predictor.{name}.weight"] = torch.ones(shape)
    assert torch.equal(logits(ps.load(write(tmp_path / "more", TURBO_SPARSE, weights))), plain)


@pytest.mark.parametrize("case", ["turbosparse", "minicpm-s", "sakana plain"], indirect=True)
def test_the_sparse_path_takes_it(case, monkeypatch):
    folder, expected, _ = case
    network = ps.load(folder)
    before = [type(ffn.module) for ffn in ffns(network)]
    runs = []
    own = sparse_ffn.sparse_ffn
    monkeypatch.setattr(
        sparse_ffn, "sparse_ffn", lambda *args, **kw: runs.append(1) or own(*args, **kw)
    )
    accelerated = ps.accelerate(network, max_tokens=IDS.numel())
    torch.testing.assert_close(logits(network), expected, rtol=1e-4, atol=1e-4)
    assert len(runs) == NUM_LAYERS
    accelerated.remove()
    assert [type(ffn.module) for ffn in ffns(network)] == before
    torch.testing.assert_close(logits(network), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["cats"], indirect=True)
def test_cats_is_refused_by_the_sparse_path(case):
    with pytest.raises(UserError, match="come from the magnitudes of SiLU"):
        ps.accelerate(ps.load(case[0]))


REFUSED = {
    "no such model": (
        {**RELU_LLAMA, "model_type": "sparsellamas"},
        "has model_type 'sparsellamas', which neither transformers nor prosparse knows; the nearest "
        "published format is that of SparseLLM's ProSparse-LLaMA2 (model_type 'sparsellama')",
    ),
    "known by its keys": ({**MINICPM_S, "model_type": "mycpm"}, "that of OpenBMB's MiniCPM-S"),
    "another's keys in a stock model": (
        {**CATS, "model_type": "mistral"},
        "has model_type 'mistral' and the keys thresholds, use_sparse_model of CATS' SparseMistral",
    ),
    "prosparse without t": (
        {**PROSPARSE_LLAMA2, "hidden_act_param": None},
        "is nearly in the format of SparseLLM's ProSparse-LLaMA2 (model_type 'sparsellama'), but it "
        "lacks hidden_act_param",
    ),
    "prosparse with silu": ({**PROSPARSE_LLAMA2, "hidden_act": "silu"}, "its hidden_act is silu"),
    "minicpm without a scale": ({**MINICPM_S, "scale_emb": None}, "but it lacks scale_emb"),
    "minicpm with experts": ({**MINICPM_S, "num_experts": 8}, "a mixture of experts"),
    "minicpm4": ({**MINICPM_S, "sparse_config": {"topk": 64}}, "sparse attention of MiniCPM4"),
    "sakana of another base": (
        {**SAKANA, "model_type": "opt_sparse_relu"},
        "its base 'opt' is none",
    ),
    "sakana transposed": (
        {**SAKANA, "sparsity_use_hybrid_kernel": True},
        "stores down_proj transposed",
    ),
    "plain qwen2": (
        {**PLAIN_SAKANA, "model_type": "qwen2_sparse_relu"},
        "no qwen2 whose FFN has no gate",
    ),
    "bamboo with silu": (
        {**TURBO_SPARSE, "hidden_act": "silu"},
        "its hidden_act is silu, not relu",
    ),
    "cats of other depth": ({**CATS, "thresholds": [0.1]}, "it lists 1 thresholds for 2 layers"),
    "cats with a predictor": ({**CATS, "use_sparse_predictor": True}, "what a predictor says"),
    "no number": ({**SPELLED, "hidden_act": "fatrelu_low"}, "'fatrelu_low' is no number >= 0"),
    "a number that ReLU takes none of": (
        {**RELU_LLAMA, "hidden_act_param": 0.01},
        "nearly in the format of SparseLLM's ProSparse-LLaMA2 (model_type 'sparsellama'), but its "
        "activation is relu, which would not heed its hidden_act_param of 0.01",
    ),
    "the same where the format is known": (
        {**PROSPARSE_LLAMA2, "hidden_act": "relu"},
        "its activation is relu, which would not heed its hidden_act_param of 0.01",
    ),
    "two numbers": (
        {**SPELLED, "hidden_act_param": 0.1},
        "fatrelu_0.2 and its hidden_act_param is 0.1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(case, tmp_path):
    config, words = REFUSED[case]
    write(tmp_path, config, {"x": torch.zeros(1)})
    for use in (ps.load, ps.load_tokenizer):
        with pytest.raises(UserError) as refusal:
            use(tmp_path)
        assert words in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_half_of_a_checkpoint_is_refused(tmp_path):
    weights = tensors()
    del weights["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(UserError, match="lacks model.layers.1.mlp.up_proj.weight"):
        ps.load(write(tmp_path, TURBO_SPARSE, weights))


def test_code_that_may_run_goes_first(tmp_path):
    folder = write(tmp_path, TURBO_SPARSE, tensors())
    with pytest.raises(UserError, match="configuration_bamboo"):  # which is not there
        ps.load(folder, trust_remote_code=True)
