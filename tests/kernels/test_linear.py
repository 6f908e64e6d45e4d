# SPDX-License-Identifier: Apache-2.0
"""A dense projection of a few tokens: against float64, on every backend that runs."""

import pytest
import torch

from prosparse.kernels.backend import use_backend, why_not
from prosparse.kernels.cpu.library import why_no_library
from prosparse.kernels.linear import linear, linears, quantized_linear
from prosparse.kernels.quantize import dequantize, quantize
from tests.kernels.cases import DTYPES

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
COMPILED = pytest.mark.skipif(why_no_library() is not None, reason="needs the compiled kernels")
BACKENDS = [
    "reference",
    pytest.param("cpu", marks=COMPILED),
    pytest.param("triton", marks=GPU),
    pytest.param("cuda", marks=GPU),
]
SHAPES = ((64, 96), (67, 75), (576, 192), (4096, 1024))  # [D, F]
EPSILON = {torch.float32: 2**-22, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def problem(T, D, F, dtype, device):
    generator = torch.Generator().manual_seed(T + D)
    x, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype).to(device)
        for shape in ((T, D), (F, D), (F,))
    )
    return x, weight, bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 2, 4, 5, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_is_the_product_to_one_rounding(backend, shape, T, dtype):
    device = torch.device("cpu" if backend in ("reference", "cpu") else "cuda")
    x, weight, bias = problem(T, *shape, dtype, device)
    exact = x.double() @ weight.double().T + bias.double()
    size = x.double().abs() @ weight.double().abs().T + bias.double().abs()
    with use_backend(backend):
        found = linear(x, weight, bias)
    assert found.dtype == dtype
    # One rounding of the output, and float32's of the sum.
    allowed = EPSILON[dtype] * exact.abs() + 2**-20 * size
    assert ((found.double() - exact).abs() <= allowed).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_negative_outputs_nan_and_infinities_pass(backend):
    device = torch.device("cpu" if backend in ("reference", "cpu") else "cuda")
    x = torch.ones(1, 64, device=device)
    weight = torch.zeros(4, 64, device=device)
    weight[:, 0] = torch.tensor([-2.0, torch.nan, torch.inf, -torch.inf])
    with use_backend(backend):
        found = linear(x, weight)
    expected = torch.tensor([[-2.0, torch.nan, torch.inf, -torch.inf]])
    assert torch.equal(found.cpu().nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))


@GPU
@pytest.mark.parametrize("T", [1, 3, 16])
def test_weights_ready_changes_no_bit(T):
    x, weight, bias = problem(T, 4096, 1024, torch.bfloat16, "cuda")
    assert why_not("cuda", x.device) is None
    expected = linear(x, weight, bias)
    torch.cuda.synchronize()
    for _ in range(20):
        y = linear(x.clone(), weight, bias, weights_ready=True)
        assert torch.equal(y, expected)


@pytest.mark.parametrize("T", [1, 3, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("backend", BACKENDS)
def test_together_they_are_what_each_is_alone(backend, count, T):
    device = torch.device("cpu" if backend in ("reference", "cpu") else "cuda")
    x = problem(T, 96, 8, torch.bfloat16, device)[0]
    each = [problem(T, 96, 40 + 17 * i, torch.bfloat16, device)[1:] for i in range(count)]
    weights, biases = zip(*each, strict=True)
    biases = [bias if i % 2 else None for i, bias in enumerate(biases)]
    with use_backend(backend):
        found = linears(x, weights, biases)
        alone = [linear(x, *pair) for pair in zip(weights, biases, strict=True)]
    assert all(torch.equal(y, z) for y, z in zip(found, alone, strict=True))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 5, 16])
@pytest.mark.parametrize("shape", [(64, 96), (576, 192)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_it_is_the_product_with_what_the_values_stand_for(backend, shape, T, dtype, bits):
    device = torch.device("cpu" if backend in ("reference", "cpu") else "cuda")
    x, weight, bias = problem(T, *shape, dtype, device)
    values, scales = quantize(weight, bits, 64)
    rows = dequantize(values, scales).double()
    exact = x.double() @ rows.T + bias.double()
    size = x.double().abs() @ rows.abs().T + bias.double().abs()
    with use_backend(backend):
        found = quantized_linear(x, values, scales, bias)
    assert found.dtype == dtype
    allowed = EPSILON[dtype] * exact.abs() + 2**-20 * size
    if dtype != torch.float32 and backend == "cpu":  # may round x to 15 bits, a group at a time
        groups = x.double().abs().unflatten(1, (-1, 64))
        most = groups.amax(dim=2, keepdim=True).expand_as(groups).flatten(1)
        allowed += 2**-14 * most @ rows.abs().T
    assert ((found.double() - exact).abs() <= allowed).all()


def test_opcheck():
    x, weight, bias = problem(2, 64, 96, torch.float32, "cpu")
    values, scales = quantize(weight, 4, 64)
    weights, biases = [weight, weight[:5].contiguous(), values], [bias, None, bias]
    arguments = (x, weights, [None, None, scales], biases, False)
    torch.library.opcheck(torch.ops.prosparse.linears.default, arguments)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weight": torch.zeros(96, 63)}, "the matrix must be"),
        ({"bias": torch.zeros(95)}, "gate_bias must be"),
        ({"x": torch.zeros(17, 64)}, "1 to 16 tokens"),
    ],
    ids=["width", "bias", "tokens"],
)
def test_what_does_not_go_together_is_refused(change, complaint):
    x, weight, bias = problem(2, 64, 96, torch.float32, "cpu")
    with pytest.raises(ValueError, match=complaint):
        linear(**({"x": x, "weight": weight, "bias": bias} | change))
