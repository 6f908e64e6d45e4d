# SPDX-License-Identifier: Apache-2.0
"""A trial's divergence is that of the model so quantized, and leaves no trace."""

import copy
import math

import pytest
import torch

from prosparse.measurement.perplexity import Windows, measure_windows, paired_increase
from prosparse.model.quantizing import hold_all, places
from prosparse.quantization.trial import Trial, replayed
from tests.model.test_quantized import logits, relu_model
from tests.model.tiny import tiny_tokens

FAMILIES = ["llama", "phi3", "opt", "gpt2", "gemma2", "gpt_neox"]


def divergence(model, twin, ids):
    """KL(model || twin), in nats per token, by its definition."""
    with torch.no_grad():
        p, q = (m(ids, use_cache=False).logits.double().softmax(-1) for m in (model, twin))
    return (p * (p / q).log()).sum(-1).mean().item()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_each_layer_alone(model_type):
    model, ids = relu_model(model_type), tiny_tokens(24)
    trial = Trial(model, ids, group_size=32)
    for place in places(model, 32):
        twin = copy.deepcopy(model)
        hold_all(twin, {place.name: 4}, places(twin, 32), 32)
        expected = divergence(model, twin, ids)
        assert trial.divergence({place: 4}) == pytest.approx(expected, rel=1e-2, abs=1e-6), (
            place.name
        )


def test_several_together_and_a_tied_head():
    model, ids = relu_model("llama", tie_word_embeddings=True), tiny_tokens(24)
    trial, found = Trial(model, ids, group_size=32), places(model, 32)
    twin = copy.deepcopy(model)
    hold_all(twin, {place.name: 4 for place in found}, places(twin, 32), 32)
    expected = divergence(model, twin, ids)
    assert trial.divergence(dict.fromkeys(found, 4)) == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_together_is_the_rise_of_the_loss_and_its_error():
    model, longer = relu_model(), [Windows(n, n, tiny_tokens(24, batch_size=3, seed=s)) for n, s in
                                   (("a", 1), ("b", 2))]  # fmt: skip
    trial, found = Trial(model, tiny_tokens(24), group_size=32, longer=longer), places(model, 32)
    twin = copy.deepcopy(model)
    hold_all(twin, {place.name: 4 for place in found}, places(twin, 32), 32)
    losses = [
        [measure_windows(m, w, precision="float32").loss_W for w in longer] for m in (twin, model)
    ]
    increase, stderr = paired_increase(*losses)
    expected = math.log1p(increase + stderr)
    assert trial.together(dict.fromkeys(found, 4)) == pytest.approx(expected, rel=1e-6)
    alone = Trial(model, tiny_tokens(24), group_size=32)
    assert alone.together({found[0]: 4}) == alone.divergence({found[0]: 4})


def test_nothing_is_left_behind():
    model, ids, passes = relu_model("llama", tie_word_embeddings=True), tiny_tokens(24), []
    before, modules = logits(model), list(model.modules())
    trial = Trial(model, ids, group_size=32, on_pass=lambda: passes.append(1))
    trial.divergence(dict.fromkeys(places(model, 32), 4))
    assert torch.equal(logits(model), before)
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    assert len(passes) == 2


def test_layers_before_the_first_change_are_not_computed():
    model, ids = relu_model(), tiny_tokens(24)
    trial, ran = Trial(model, ids, group_size=32), []
    for index, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
    second = [place for place in places(model, 32) if place.layer == 1]
    trial.divergence({second[0]: 8})
    assert set(ran) == {1}


def test_a_failure_inside_takes_the_replay_away():
    layers = relu_model().model.layers
    with pytest.raises(KeyboardInterrupt), replayed(layers, [None]):
        raise KeyboardInterrupt
    assert "forward" not in vars(layers[0])
