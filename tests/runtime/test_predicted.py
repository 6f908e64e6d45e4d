# SPDX-License-Identifier: Apache-2.0
"""A model that runs by its predictors: what it skips, what it refuses, and the way back."""

import pytest
import torch

import prosparse as ps
from prosparse.model.ffn import ffns
from prosparse.predictors.files import write_predictors
from prosparse.predictors.predictor import Predictor, Predictors
from prosparse.predictors.skipping import skipping
from prosparse.runtime.decode import Decoder
from tests.model.tiny import tiny_model, tiny_tokens
from tests.runtime.models import logits, relu_model

GATED = ["llama", "qwen3", "gemma2", "phi3"]


def predictors(model, cut=0.0, reads="ffn-input", rank=8):
    torch.manual_seed(5)
    return Predictors(
        [
            Predictor(torch.randn(rank, f.d_model), torch.randn(f.d_ff, rank), cut)
            for f in ffns(model)
        ],
        reads,
    )


@pytest.mark.parametrize("family", GATED)
def test_it_computes_what_skipping_computes(family):
    model = relu_model(family)
    own = predictors(model)
    dense = logits(model)
    with skipping(model, ffns(model), own):
        expected = logits(model)
    with ps.accelerate(model, backend="predicted", predictors=own, max_tokens=16) as accelerated:
        found = logits(model)
        assert str(accelerated).startswith("Predicted FFNs: 2 on ")
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, dense, atol=1e-3)
    assert torch.equal(logits(model), dense)


@pytest.mark.parametrize("family", GATED)
def test_who_predicts_everything_is_exact(family):
    model = relu_model(family)
    expected = logits(model)
    own = predictors(model, cut=float("-inf"))
    with ps.accelerate(model, backend="predicted", predictors=own, max_tokens=16):
        assert torch.allclose(logits(model), expected, atol=1e-5)


def test_predictors_of_the_residual_run_as_well(tmp_path):
    model = relu_model("llama")
    own = predictors(model, reads="residual")
    with skipping(model, ffns(model), own):
        expected = logits(model)
    write_predictors(own, tmp_path)
    with ps.accelerate(model, backend="predicted", predictors=tmp_path, max_tokens=16):
        assert torch.allclose(logits(model), expected, atol=1e-5)


def test_long_inputs_go_the_dense_way():
    model = relu_model("llama")
    long = tiny_tokens(20)
    expected = logits(model, long)
    with ps.accelerate(model, backend="predicted", predictors=predictors(model), max_tokens=4):
        assert torch.equal(logits(model, long), expected)


def test_the_decode_loop_and_a_compiled_step():
    model = relu_model("llama")
    own = predictors(model)
    prompt = tiny_tokens(6, batch_size=1)
    with ps.accelerate(model, backend="predicted", predictors=own, max_tokens=1):
        texts = [
            Decoder(model, max_length=16, compile=mode).generate(prompt, 8)
            for mode in (None, "default")
        ]
    assert torch.equal(*texts)


def test_generate_by_predictors(relu_checkpoint, tmp_path):
    own = predictors(ps.load(relu_checkpoint))
    write_predictors(own, tmp_path)
    model = ps.load(relu_checkpoint)
    found = ps.generate(
        relu_checkpoint, "def", max_new_tokens=8, backend="predicted", predictors=tmp_path
    )
    with ps.accelerate(model, backend="predicted", predictors=own):
        assert ps.generate(model, "def", max_new_tokens=8) == found
    with pytest.raises(ps.UserError, match="needs predictors"):
        ps.generate(relu_checkpoint, "def", backend="predicted")


def test_predictors_follow_the_models_dtype():
    model = relu_model("llama")
    with ps.accelerate(model, backend="predicted", predictors=predictors(model), max_tokens=16):
        model.to(torch.bfloat16)
        assert logits(model).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"backend": "predicted"}, "needs predictors"),
        ({"backend": "auto", "predictors": Predictors()}, "for backend='predicted'"),
        ({"backend": "predicted", "predictors": Predictors()}, "for 0 layers and 2 FFNs"),
        ({"backend": "predicted", "predictors": Predictors(), "screened": True}, "A screen is for"),
        ({"backend": "predicted", "predictors": "nowhere"}, "No predictors in nowhere"),
    ],
    ids=["none", "not-wanted", "other-model", "screen", "no-folder"],
)
def test_what_is_refused(options, complaint):
    model = relu_model("llama")
    with pytest.raises(ps.UserError, match=complaint):
        ps.accelerate(model, **options)
    assert torch.equal(logits(model), logits(relu_model("llama")))


def test_biases_are_refused():
    model = relu_model("llama", mlp_bias=True)
    with pytest.raises(ps.UserError, match="gate_proj has a bias"):
        ps.accelerate(model, backend="predicted", predictors=predictors(model))


def test_dense_models_are_refused_first():
    with pytest.raises(ps.UserError, match="gives no zeros to skip"):
        ps.accelerate(tiny_model("llama"), backend="predicted", predictors=Predictors())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_step_on_a_gpu():
    model = relu_model("llama").cuda()
    own = predictors(model)
    prompt = tiny_tokens(6, batch_size=1).cuda()
    with ps.accelerate(model, backend="predicted", predictors=own, max_tokens=1):
        eager, captured = (
            Decoder(model, max_length=16, graph=graph).generate(prompt, 8)
            for graph in (False, True)
        )
    assert torch.equal(eager, captured)
