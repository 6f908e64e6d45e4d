# SPDX-License-Identifier: Apache-2.0
"""A pass from a layer on gives the bits of a whole one."""

import pytest
import torch
from torch import nn

from prosparse.measurement.restart import Restart
from prosparse.model.ffn import ffns
from tests.model.tiny import tiny_model, tiny_tokens


@pytest.fixture(params=["llama", "gemma3_text", "opt", "bloom", "gpt2"])
def model(request):
    return tiny_model(request.param, num_hidden_layers=3)


@torch.no_grad()
def logits(model):
    return model(input_ids=tiny_tokens(), use_cache=False).logits


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_changed_layer_and_all_above_it_are_run(layer, model):
    restart = Restart(model)
    with restart.keep():
        before = logits(model)
    ffns(model)[layer].set_activation(nn.Tanh())
    whole = logits(model)
    seen = []
    handles = [
        ffn.down.register_forward_pre_hook(lambda *_, i=ffn.layer: seen.append(i))
        for ffn in ffns(model)
    ]
    with restart.above(layer):
        found = logits(model)
    for handle in handles:
        handle.remove()
    assert torch.equal(found, whole)
    assert not torch.equal(found, before)
    assert seen == list(range(layer, 3))


def test_nothing_is_left_in_the_model(model):
    before = logits(model)
    restart = Restart(model)
    with restart.keep():
        logits(model)
    with pytest.raises(ZeroDivisionError), restart.above(2):
        raise ZeroDivisionError
    assert torch.equal(logits(model), before)
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
