# SPDX-License-Identifier: Apache-2.0
"""What a threshold is compared with: the contribution of CETT, and the gate value of FATReLU."""

import pytest
import torch

from prosparse.measurement.strength import Contributions, GateValues
from prosparse.model.ffn import ffns
from prosparse.model.relufy import relufy_in_place
from prosparse.model.tap import tap
from prosparse.records.sparsity import Activation
from tests.model.tiny import tiny_model, tiny_tokens


@pytest.fixture(params=["llama", "phi3", "opt"])  # gated, gate and up in one matrix, plain
def model(request):
    model = tiny_model(request.param)
    relufy_in_place(model, Activation("relu"))
    return model


def test_below_a_gate_value_is_what_fatrelu_zeroes(model):
    found = ffns(model)
    strength, zeros = GateValues(found), {}

    def observe(layer, x1):
        zeros[layer] = (x1 == 0) | (strength.of(layer, x1) < 0.2)

    with torch.no_grad(), strength.watch(), tap(found, observe):
        model(tiny_tokens())

    # The first layer's inputs are the same under FATReLU.
    relufy_in_place(model, Activation("fatrelu", 0.2))
    with torch.no_grad(), tap(ffns(model), lambda layer, x1: zeros.update({10 + layer: x1 == 0})):
        model(tiny_tokens())
    assert torch.equal(zeros[0], zeros[10])
    assert 0.3 < zeros[0].float().mean() < 1


def test_nothing_is_kept_or_hooked_afterwards(model):
    found = ffns(model)
    strength = GateValues(found)
    with torch.no_grad(), strength.watch():
        model(tiny_tokens())
    assert not any(ffn.activation._forward_hooks for ffn in found)
    with pytest.raises(KeyError):
        strength.of(0, torch.zeros(1))


def test_a_contribution_is_the_norm_of_what_a_neuron_adds(model):
    ffn = ffns(model)[1]
    x1 = torch.randn(3, ffn.d_ff)
    down_DF = ffn.weights()["down_proj"].detach()
    with Contributions(ffns(model)).watch():
        found = Contributions(ffns(model)).of(1, x1)
    by_hand = [[(x1[t, j] * down_DF[:, j]).norm() for j in range(ffn.d_ff)] for t in range(3)]
    assert torch.allclose(found, torch.tensor(by_hand), rtol=1e-6)
