# SPDX-License-Identifier: Apache-2.0
"""A model under its predictors: counts by hand, and skipping is what the sparse path does."""

import pytest
import torch

from prosparse.model.ffn import ffns
from prosparse.model.tap import tap
from prosparse.predictors.predictor import Predictor, Predictors
from prosparse.predictors.skipping import Judge, skipping
from tests.model.tiny import tiny_tokens
from tests.runtime.models import relu_model


def everything(model, cut=-1.0):
    return Predictors(
        [Predictor(torch.zeros(2, f.d_model), torch.zeros(f.d_ff, 2), cut) for f in ffns(model)]
    )


def exact(model, cut=0.0):
    """Predictors that are the gates themselves."""
    layers = []
    for ffn in ffns(model):
        gate = ffn.weights()["gate_proj"].detach()
        identity = torch.eye(ffn.d_model)
        layers.append(Predictor(torch.cat([identity, -identity]), torch.cat([gate, -gate], 1), cut))
    return Predictors(layers)


def x1_of(model):
    seen = {}
    with torch.no_grad(), tap(ffns(model), seen.__setitem__):
        model(tiny_tokens(12))
    return seen


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_who_predicts_everything_changes_nothing(family):
    model = relu_model(family)
    with torch.no_grad():
        expected = model(tiny_tokens(12)).logits
        for predictors in (everything(model), exact(model, cut=-1e-4)):
            with skipping(model, ffns(model), predictors):
                assert torch.equal(model(tiny_tokens(12)).logits, expected)
        with skipping(model, ffns(model), everything(model, cut=1.0)):
            assert not torch.equal(model(tiny_tokens(12)).logits, expected)
        assert torch.equal(model(tiny_tokens(12)).logits, expected)


def test_predictors_stay_float32_under_autocast(monkeypatch):
    model = relu_model("llama")
    dtypes = set()
    original = Predictor.predicts

    def noted(self, h):
        dtypes.add(self.logits(h).dtype)
        return original(self, h)

    monkeypatch.setattr(Predictor, "predicts", noted)
    judge = Judge(model, ffns(model), exact(model))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        with skipping(model, ffns(model), exact(model)):
            model(tiny_tokens(12))
        with judge.watch():
            model(tiny_tokens(12))
    assert dtypes == {torch.float32}


def test_skipped_neurons_are_zero():
    model = relu_model("llama")
    whole = x1_of(model)
    with skipping(model, ffns(model), everything(model, cut=1.0)), torch.no_grad():
        seen = x1_of(model)
    assert all((x1 == 0).all() for x1 in seen.values())
    assert any((x1 != 0).any() for x1 in whole.values())


def test_the_judge_counts_by_hand():
    model = relu_model("llama")
    found = ffns(model)
    torch.manual_seed(3)
    predictors = Predictors(
        [Predictor(torch.randn(4, f.d_model), torch.randn(f.d_ff, 4)) for f in found]
    )
    judge = Judge(model, found, predictors)
    inputs, values = {}, {}
    with judge.watch(), torch.no_grad():
        hooks = [
            f.module.gate_proj.register_forward_pre_hook(
                lambda _m, args, layer=f.layer: inputs.__setitem__(layer, args[0])
            )
            for f in found
        ]
        with tap(found, values.__setitem__):
            model(tiny_tokens(12))
    for hook in hooks:
        hook.remove()
    for layer, quality in enumerate(judge.qualities()):
        x1, down = values[layer].flatten(0, 1), found[layer].weights()["down_proj"]
        predicted = predictors.layers[layer].logits(inputs[layer]).flatten(0, 1) >= 0
        active = x1 != 0
        assert quality.recall == pytest.approx(float((predicted & active).sum() / active.sum()))
        assert quality.predicted_sparsity == pytest.approx(1 - float(predicted.float().mean()))
        assert quality.sparsity == pytest.approx(1 - float(active.float().mean()))
        missed = (x1 * ~predicted) @ down.T
        whole = x1 @ down.T
        mean = (missed.norm(dim=1) / whole.norm(dim=1)).mean()
        expected = max(mean.item(), (missed.norm() / whole.norm()).item())
        assert quality.missed == pytest.approx(expected, rel=1e-4)


def test_the_gate_itself_misses_nothing():
    model = relu_model("llama")
    judge = Judge(model, ffns(model), exact(model))
    with judge.watch(), torch.no_grad():
        model(tiny_tokens(12))
    for quality in judge.qualities():
        assert quality.recall > 0.999
        assert quality.predicted_sparsity == pytest.approx(quality.sparsity, abs=1e-3)
        assert quality.missed < 1e-3
