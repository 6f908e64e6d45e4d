# SPDX-License-Identifier: Apache-2.0
"""The FFN behind a predictor: what it leaves out, and that it leaves out nothing else."""

from dataclasses import replace

import pytest
import torch

from prosparse.kernels import reference
from prosparse.kernels.backend import implementation, use_backend, why_not
from prosparse.kernels.ops import sparse_ffn
from prosparse.kernels.predicted import predicted_ffn, put_together
from tests.kernels.cases import DTYPES, random_weights, relative_error

D, F, R = 67, 150, 24
CPU_BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            why_not(name, torch.device("cpu")) is not None, reason="not compiled here"
        ),
    )
    for name in ("cpu", "reference")
]
KINDS = {
    "relu": {},
    "fatrelu": {"threshold": 0.3},
    "shift": {"shift": 0.125},
    "drelu": {"up_relu": True},
}


def predictor(dtype=torch.float32):
    torch.manual_seed(7)
    return (torch.randn(R, D) / D**0.5).to(dtype), (torch.randn(R, F) / R**0.5).to(dtype)


def expected_y(x, weights, fc1, fc2T, cut):
    """By float64, at the neurons that the predictor in `dtype` says."""
    hidden = (x.double() @ fc1.double().T).relu().to(x.dtype)
    logits = (hidden.double() @ fc2T.double()).to(x.dtype)
    gate = reference.activate(x @ weights.gate_proj.T, weights.threshold, weights.shift)
    up = x @ weights.up_proj.T
    x1 = gate * (up.relu() if weights.up_relu else up)
    return x1.masked_fill(logits < cut, 0).double() @ weights.down_projT.double()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("tokens", [1, 3, 16])
def test_only_predicted_neurons_count(backend, kind, tokens):
    weights, (fc1, fc2T) = random_weights(D, F, **kind), predictor()
    x = torch.randn(tokens, D)
    with use_backend(backend):
        y = predicted_ffn(x, weights, fc1, fc2T, cut=0.1)
    assert relative_error(y, expected_y(x, weights, fc1, fc2T, 0.1)) <= 2e-6
    assert relative_error(y, sparse_ffn(x, weights)) > 0.1  # the predictor is random


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_the_reference(backend, dtype):
    weights, (fc1, fc2T) = random_weights(D, F, dtype), predictor(dtype)
    x = torch.randn(2, D).to(dtype)
    with use_backend(backend):
        y = predicted_ffn(x, weights, fc1, fc2T, cut=0.0)
    expected = reference.predicted_ffn(x, weights, fc1, fc2T, 0.0)
    # a logit within rounding of the cut may fall on either side
    assert relative_error(y, expected) <= (1e-6 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_with_everything_predicted_it_is_the_exact_ffn(backend, kind):
    weights, (fc1, fc2T) = random_weights(D, F, **kind), predictor()
    x = torch.randn(2, D)
    with use_backend(backend):
        y = predicted_ffn(x, weights, fc1, fc2T, cut=float("-inf"))
        assert relative_error(y, sparse_ffn(x, weights)) <= 1e-6
        nothing = predicted_ffn(x, weights, fc1, fc2T, cut=float("inf"))
    assert torch.equal(nothing, torch.zeros_like(nothing))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_put_together_from_a_backends_operators_it_is_the_same(backend, dtype, kind, gated):
    weights, (fc1, fc2T) = random_weights(D, F, dtype, **kind), predictor(dtype)
    if not gated:
        weights = replace(weights, up_proj=None, up_relu=False)
    x = torch.randn(2, D).to(dtype)
    with use_backend(backend):
        y = predicted_ffn(x, weights, fc1, fc2T, cut=0.1)
        other = put_together(implementation(x.device), x, weights, fc1, fc2T, 0.1, {})
    assert torch.equal(y, other) if backend == "cpu" else relative_error(other, y) <= 0.02


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_what_is_not_predicted_is_not_read(backend):
    weights, (fc1, fc2T) = random_weights(D, F), predictor()
    x = torch.randn(1, D)
    with use_backend(backend):
        y = predicted_ffn(x, weights, fc1, fc2T)
        left_out = (x @ fc1.T).relu() @ fc2T < 0
        for matrix in (weights.gate_proj, weights.up_proj, weights.down_projT):
            matrix[left_out[0]] = torch.nan
        assert torch.equal(predicted_ffn(x, weights, fc1, fc2T), y)


def test_an_input_that_is_not_a_number_stays_one():
    weights, (fc1, fc2T) = random_weights(D, F), predictor()
    assert predicted_ffn(torch.full((1, D), torch.nan), weights, fc1, fc2T).isnan().all()


def test_a_plain_ffn():
    weights, (fc1, fc2T) = replace(random_weights(D, F), up_proj=None), predictor()
    x = torch.randn(3, D)
    x1 = (x @ weights.gate_proj.T).relu().masked_fill((x @ fc1.T).relu() @ fc2T < 0, 0)
    y = predicted_ffn(x, weights, fc1, fc2T)
    assert relative_error(y, x1.double() @ weights.down_projT.double()) <= 2e-6


def test_opcheck_and_one_graph():
    weights, (fc1, fc2T) = random_weights(D, F), predictor()
    x = torch.randn(2, D)
    tensors = (weights.gate_proj, weights.up_proj, weights.down_projT)
    torch.library.opcheck(
        torch.ops.prosparse.predicted_ffn, (x, fc1, fc2T, *tensors, 0.0, 0.0, 0.0, False, False)
    )

    def model(x):
        return predicted_ffn(x + 1, weights, fc1, fc2T)

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), model(x))


def test_what_does_not_go_together_is_refused():
    weights, (fc1, fc2T) = random_weights(D, F), predictor()
    x = torch.randn(1, D)
    with pytest.raises(ValueError, match="fc2T must be"):
        predicted_ffn(x, weights, fc1, fc2T.T.contiguous())
    with pytest.raises(ValueError, match="fc1 must be"):
        predicted_ffn(x, weights, fc1.half(), fc2T)
    with pytest.raises(ValueError, match="biases"):
        predicted_ffn(x, random_weights(D, F, biases=True), fc1, fc2T)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_on_a_gpu_in_a_graph(backend, dtype):
    reason = why_not(backend, torch.device("cuda"))
    if reason:
        pytest.fail(reason)
    sizes = (4096, 11008, 1024)
    weights = random_weights(*sizes[:2], dtype)
    torch.manual_seed(7)
    fc1 = (torch.randn(sizes[2], sizes[0]) / 64).to(dtype)
    fc2T = (torch.randn(sizes[2], sizes[1]) / 32).to(dtype)
    x = torch.randn(1, sizes[0]).to(dtype)
    expected = reference.predicted_ffn(x, weights, fc1, fc2T, 1.0)
    on_gpu = replace(
        weights,
        gate_proj=weights.gate_proj.cuda(),
        up_proj=weights.up_proj.cuda(),
        down_projT=weights.down_projT.cuda(),
    )
    tensors = x.cuda(), fc1.cuda(), fc2T.cuda()
    with use_backend(backend):
        predicted_ffn(tensors[0], on_gpu, *tensors[1:], 1.0)  # compiles
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = predicted_ffn(tensors[0], on_gpu, *tensors[1:], 1.0)
        graph.replay()
    assert relative_error(y.cpu(), expected) <= (1e-5 if dtype == torch.float32 else 0.05)
