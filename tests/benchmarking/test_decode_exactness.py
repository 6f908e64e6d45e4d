# SPDX-License-Identifier: Apache-2.0
"""Exactness: what is right passes in every dtype and family, what is wrong does not."""

import pytest
import torch

from prosparse.benchmarking.decode_check import dense_decode
from prosparse.benchmarking.decode_exactness import (
    beyond_rounding,
    check_exactness,
    intermediate,
    trace_ffns,
)
from prosparse.kernels import reference
from prosparse.kernels.backend import implementation, use_backend
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.quantize import dequantize, quantize
from prosparse.model.activation import make_activation
from prosparse.model.ffn import ffns
from prosparse.model.tap import tap
from prosparse.runtime.accelerate import accelerate
from prosparse.runtime.sparse_ffn import PATH
from tests.conftest import tiny_llama
from tests.runtime.models import ACTIVATIONS, FAMILIES, relu_model

PROMPT = torch.tensor([[5, 9, 30, 2]])
NUM_TOKENS = 6
NEURONS = 2 * (NUM_TOKENS - 1) * 48  # of `tiny_llama`


def check(model, screened=False):
    dense = dense_decode(model, PROMPT, NUM_TOKENS)
    traces = trace_ffns(model, PROMPT, dense.tokens)
    with torch.no_grad(), accelerate(model, max_tokens=1, screened=screened):
        return check_exactness("sparse", model, PROMPT, dense, traces)


@pytest.fixture
def spoil(monkeypatch):
    """Return a function that puts something behind an operator of the reference, which runs."""

    def put(name, change):
        right = getattr(reference, name)
        monkeypatch.setattr(
            reference, name, lambda x, weights, *more: change(right(x, weights, *more))
        )

    with use_backend("reference"):
        yield put


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("screened", [False, True])
def test_a_sparse_decode_is_exact(dtype, screened):
    found = check(tiny_llama(hidden_act="relu", hidden_size=64).to(dtype), screened)
    assert (found.kind, found.num_tokens, found.num_neurons) == ("sparse", NUM_TOKENS, NEURONS)
    assert found.logit_difference <= found.logit_bound
    assert found.farthest <= 1
    assert not found.is_wrong


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.name)
def test_families_and_activations(model_type, activation):
    found = check(relu_model(model_type, activation))
    assert found.num_differing == 0
    assert not found.is_wrong


def test_a_dropped_neuron_is_wrong(spoil):
    def drop(x1):
        x1[:, x1[0].abs().argmax()] = 0
        return x1

    spoil("gate_up", drop)
    found = check(tiny_llama(hidden_act="relu"))
    assert found.num_differing == NEURONS // 48
    assert found.farthest > 1
    assert found.is_wrong


def test_a_neuron_that_should_be_inactive_is_wrong(spoil):
    spoil("gate_up", lambda x1: x1 + (x1 == 0) * 1e-9)  # too little to move any logit
    found = check(tiny_llama(hidden_act="relu"))
    assert found.logit_difference <= found.logit_bound
    assert 0 < found.num_differing < NEURONS
    assert found.farthest > 1
    assert found.is_wrong


def test_logits_beyond_the_bound_are_wrong(spoil):
    spoil("sparse_ffn", lambda y: 1.001 * y)
    found = check(tiny_llama(hidden_act="relu"))
    assert found.num_differing == 0
    assert found.logit_difference > found.logit_bound
    assert found.is_wrong


def test_a_model_that_is_not_accelerated_proves_nothing():
    model = tiny_llama(hidden_act="relu")
    dense = dense_decode(model, PROMPT, NUM_TOKENS)
    traces = trace_ffns(model, PROMPT, dense.tokens)
    with pytest.raises(ValueError, match="argument"):
        check_exactness("sparse", model, PROMPT, dense, traces)


@pytest.mark.parametrize("d_ff", [16, 32, 80])
def test_the_intermediate_is_read_off_the_ffn(d_ff):
    model = tiny_llama(hidden_act="relu", intermediate_size=d_ff)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), accelerate(model, max_tokens=1):
        path = getattr(model.model.layers[0].mlp, PATH)
        gate_up = implementation(x.device).gate_up
        expected = torch.cat([gate_up(row, path.weights()) for row in x.split(1)])
        assert torch.equal(intermediate(path, x), expected)


def test_a_trace_holds_every_token_but_the_prompt_and_the_last():
    model = relu_model("opt", make_activation("fatrelu", threshold=0.1))
    tokens = [7, 3, 11, 4]
    seen = []
    with tap(ffns(model), lambda layer, x1: seen.append(x1.reshape(-1, x1.shape[-1]))):
        model(torch.cat([PROMPT, torch.tensor([tokens[:-1]])], dim=1))
    traces = trace_ffns(model, PROMPT, tokens)
    for trace, x1, ffn in zip(traces, seen, ffns(model), strict=True):
        assert trace.x.shape == (3, ffn.d_model)
        assert torch.equal(trace.is_zero, x1[-3:] == 0)
        pre = ffn.module.fc1(trace.x)
        assert torch.equal(trace.is_zero, ffn.activation(pre) == 0)
    assert not ffns(model)[0].down._forward_pre_hooks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_only_a_tie_may_fall_on_either_side(dtype):
    """Neurons at the threshold, a quarter of a unit off, and clearly above and below."""
    cut, unit = 0.5, torch.finfo(dtype).eps / 2  # of numbers in [0.5, 1)
    x = torch.tensor([[1.0, unit / 4]], dtype=dtype)
    rows = torch.tensor([[cut, k] for k in (0, -1, 1)] + [[2 * cut, 0], [-cut, 0]], dtype=dtype)
    weights = FFNWeights(rows, None, rows, threshold=cut)
    sums = (x.double() @ rows.double().T)[0].tolist()
    assert sums == [cut, cut - unit / 4, cut + unit / 4, 2 * cut, -cut]
    dropped = beyond_rounding(weights, x, torch.ones(1, 5, dtype=torch.bool))[0]
    kept = beyond_rounding(weights, x, torch.zeros(1, 5, dtype=torch.bool))[0]
    assert (dropped[:3] <= 1).all()
    assert (kept[:3] <= 1).all()
    assert dropped[3] > 1
    assert kept[3] == 0
    assert dropped[4] == 0
    assert kept[4] > 1


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights_are_judged_by_what_they_stand_for(bits):
    generator = torch.Generator().manual_seed(0)
    x, rows = torch.randn(2, 64, generator=generator), torch.randn(9, 64, generator=generator)
    values, scales = quantize(rows, bits, 64)
    rows = dequantize(values, scales)
    packed = FFNWeights(values, values, values, gate_scales=scales, up_scales=scales)
    is_zero = torch.arange(18).reshape(2, 9) % 2 == 0
    expected = beyond_rounding(FFNWeights(rows, rows, rows), x, is_zero)
    assert (expected > 1).any()
    assert torch.equal(beyond_rounding(packed, x, is_zero), expected)


def test_zeros_of_the_up_projection_are_ties_too():
    x = torch.tensor([[1.0, 1.0, 1e-8]])
    gate = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    up = torch.tensor([[3.0, -3.0, 1.0], [3.0, -2.0, 1.0]])  # 1e-8 drowns in the first sum
    beyond = beyond_rounding(FFNWeights(gate, up, gate), x, torch.ones(1, 2, dtype=torch.bool))[0]
    assert beyond[0] <= 1
    assert beyond[1] > 1


def test_a_product_that_underflows_is_zero():
    x = torch.tensor([[1.0]], dtype=torch.float16)
    gate = torch.tensor([[1e-4]] * 2, dtype=torch.float16)
    up = torch.tensor([[2e-4], [1e-1]], dtype=torch.float16)
    assert float(gate[0] * up[0]) == 0 < float(gate[1] * up[1])
    beyond = beyond_rounding(FFNWeights(gate, up, gate), x, torch.ones(1, 2, dtype=torch.bool))[0]
    assert beyond[0] <= 1
    assert beyond[1] > 1
