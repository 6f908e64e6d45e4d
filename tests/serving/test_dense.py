# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from prosparse.kernels import reference
from prosparse.serving.dense import dense_ffn, gate_and_intermediate
from tests.kernels.cases import random_weights, relative_error

OPTIONS = [
    pytest.param({}, id="relu"),
    pytest.param({"threshold": 0.3}, id="fatrelu"),
    pytest.param({"shift": 0.2}, id="shifted"),
    pytest.param({"up_relu": True}, id="drelu"),
    pytest.param({"biases": True, "threshold": 0.1}, id="biases"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_dense_way_is_that_of_the_reference(options):
    weights = random_weights(32, 56, **options)
    x = torch.randn(40, 32)
    gate_up = torch.cat([weights.gate_proj, weights.up_proj])
    bias = None
    if weights.gate_bias is not None:
        bias = torch.cat([weights.gate_bias, weights.up_bias])
    found = dense_ffn(x, weights, gate_up, bias)
    assert relative_error(found, reference.sparse_ffn(x, weights)) < 1e-5


def test_an_ffn_without_a_gate():
    gated = random_weights(32, 56, threshold=0.2)
    plain = type(gated)(gated.gate_proj, None, gated.down_projT, threshold=0.2)
    x = torch.randn(20, 32)
    found = dense_ffn(x, plain, plain.gate_proj, None)
    assert relative_error(found, reference.sparse_ffn(x, plain)) < 1e-5


@pytest.mark.parametrize("options", OPTIONS)
def test_the_intermediate_is_that_of_the_reference(options):
    weights = random_weights(32, 56, **options)
    x = torch.randn(5, 32)
    _, x1 = gate_and_intermediate(x, weights)
    assert torch.equal(x1 == 0, reference.gate_up(x, weights) == 0)


def test_a_threshold_is_compared_in_the_dtype_of_the_activations():
    """0.1 in bfloat16 is 0.10009765625, and an activation of that is kept."""
    weights = random_weights(32, 56, dtype=torch.bfloat16, threshold=0.1)
    weights.gate_proj.zero_()
    weights.gate_proj[:, 0] = 0.1
    x = torch.zeros(20, 32, dtype=torch.bfloat16)
    x[:, 0] = 1
    gate, _ = gate_and_intermediate(x, weights)
    assert gate.eq(torch.tensor(0.1, dtype=torch.bfloat16)).all()


def test_quantized_weights_are_what_they_stand_for():
    weights = random_weights(64, 56, bits=8, threshold=0.1)
    x = torch.randn(3, 64)
    _, x1 = gate_and_intermediate(x, weights)
    assert relative_error(x1, reference.gate_up(x, weights)) < 1e-5
