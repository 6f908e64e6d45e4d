# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels against the reference, and where kernels usually break."""

import threading
from dataclasses import replace

import pytest
import torch

from prosparse.kernels import ops, reference
from prosparse.kernels.backend import choose_backend
from prosparse.kernels.cpu import operators
from prosparse.kernels.ffn_weights import FFNWeights
from tests.kernels.cases import CASES, DTYPES, check, exact_x1, exact_y, random_weights
from tests.kernels.cpu.conftest import use

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# What the small cases do not reach: whole lines, several chunks, blocks of rows, tiles of columns.
LARGE_CASES = {
    "smollm2-135m": {"T": 1, "D": 576, "F": 1536, "threshold": 1.2},
    "smollm2-135m-sixteen": {"T": 16, "D": 576, "F": 1536, "threshold": 1.2},
    "wide": {"T": 2, "D": 4096, "F": 512, "threshold": 0.5},
    "no-zeros": {"T": 1, "D": 576, "F": 5000, "biases": True},
    "odd": {"T": 5, "D": 1023, "F": 1031, "threshold": 0.5},
    "int4-wide": {"T": 3, "D": 1536, "F": 512, "threshold": 1.0, "bits": 4},
    "int8-two-tokens": {"T": 2, "D": 1536, "F": 512, "threshold": 1.2, "bits": 8},
    # Groups of 64 are multiplied as bytes where a CPU can; 9 groups are no whole number of pairs.
    "int8-bytes": {"T": 1, "D": 576, "F": 1031, "threshold": 1.2, "bits": 8, "group": 64},
    "int4-bytes": {"T": 1, "D": 576, "F": 1031, "threshold": 1.2, "bits": 4, "group": 64},
    "int4-bytes-five": {"T": 5, "D": 1152, "F": 515, "biases": True, "bits": 4, "group": 64},
}


def test_the_operators_run_here():
    assert choose_backend(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", (CASES | LARGE_CASES).values(), ids=CASES | LARGE_CASES)
def test_ffn_is_the_reference(case, dtype, variant):
    case = {"T": 3, "D": 67, "F": 75} | case
    T = case.pop("T")
    weights = random_weights(dtype=dtype, **case)
    x = torch.randn(T, case["D"]).to(dtype)
    expected = reference.gate_up(x, weights)
    found = operators.gate_up(x, weights)
    # A pre-activation within rounding of the threshold may fall on either side: another order of
    # summation is as right. It is rare, and never happens in the small cases.
    other_side = (found == 0) != (expected == 0)
    assert other_side.sum() <= (1e-3 * found.numel() if case["F"] > 500 else 0)
    expected = torch.where(other_side, found, expected)
    exact = torch.where(other_side, found.double(), exact_x1(x, weights, expected != 0))
    check(dtype, found, expected, exact)
    y = operators.sparse_ffn(x, weights)
    down = reference.dequantize(weights.down_projT, weights.down_scales).float()
    bias = 0 if weights.down_bias is None else weights.down_bias.float()
    check(dtype, y, (found.float() @ down + bias).to(dtype), exact_y(found.double(), weights))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 16])
def test_the_papers_pair_of_operators(T, dtype, variant):
    weights = random_weights(576, 1536, dtype, threshold=0.75)
    x = torch.randn(T, 576).to(dtype)
    pre = (x.float() @ weights.gate_proj.float().T).to(dtype)
    x1 = ops.sparse_up(pre, x, weights.up_proj, 0.75)
    expected = reference.sparse_up(pre, x, weights.up_proj, 0.75)
    check(dtype, x1, expected, exact_x1(x, weights, expected != 0))
    y = ops.sparse_down(x1, weights.down_projT)
    check(dtype, y, reference.sparse_down(x1, weights.down_projT), exact_y(x1.double(), weights))


@pytest.mark.parametrize("T", [1, 6])
@pytest.mark.parametrize("residual", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("float32_output", [True, False])
def test_residual_and_float32_output(T, residual, float32_output, variant):
    weights = random_weights(576, 1536, torch.bfloat16, biases=True)
    x, h = torch.randn(T, 576).bfloat16(), torch.randn(T, 576).to(residual)
    y = ops.sparse_ffn(x, weights, h, float32_output)
    assert y.dtype == (torch.float32 if float32_output else torch.bfloat16)
    exact = exact_y(operators.gate_up(x, weights).double(), weights, h)
    bound = 1e-6 if float32_output else 3e-3
    assert (y.double() - exact).norm() <= bound * exact.norm()


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_the_number_and_kind_of_threads_change_no_bit(bits, variant):
    weights = random_weights(1024, 700, torch.bfloat16, bits=bits, group=64, threshold=0.3)
    found = []
    for openmp in (True, False):
        operators.library().prosparse_use_openmp(openmp)
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            for T in (1, 5):
                torch.manual_seed(T)
                found.append(ops.sparse_ffn(torch.randn(T, 1024).bfloat16(), weights))
    for i, y in enumerate(found):
        assert torch.equal(y, found[i % 2])


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_instruction_sets_with_fused_products_agree_to_the_last_bit(dtype, bits):
    if not (use("avx2") and use("avx512")):
        pytest.skip("needs AVX2 and AVX-512")
    weights = random_weights(608, 333, dtype, bits=bits, biases=True)
    x = torch.randn(3, 608).to(dtype)
    found = [ops.sparse_ffn(x, weights) for name in ("avx2", "avx512") if use(name)]
    assert torch.equal(*found)


@pytest.mark.parametrize("T", [1, 8])
@pytest.mark.parametrize("active", [0, 1, 1536])
def test_empty_full_and_nearly_empty_masks(active, T, variant, pool):
    torch.set_num_threads(2)
    weights = random_weights(576, 1536, torch.float32)
    pre = torch.full((T, 1536), -1.0)
    pre[:, :active] = 0.5
    x = torch.randn(T, 576)
    x1 = ops.sparse_up(pre, x, weights.up_proj)
    assert (x1 != 0).sum() == active * T
    y = ops.sparse_down(x1, weights.down_projT)
    assert torch.isfinite(y).all()
    assert bool((y == 0).all()) == (active == 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_at_the_threshold_are_kept(dtype, variant):
    t = torch.tensor(0.3).to(dtype)
    below = torch.nextafter(t, torch.zeros_like(t))
    pre = torch.stack([t, below, t, -t]).repeat(64)[None]
    x, up = torch.ones(1, 64, dtype=dtype), torch.ones(256, 64, dtype=dtype)
    assert torch.equal(ops.sparse_up(pre, x, up, 0.3) != 0, pre == t)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("T", [1, 8])
def test_nan_and_inf_in_x_show_in_the_output(value, T, variant):
    weights = random_weights(576, 1536, torch.bfloat16)
    x = torch.randn(T, 576).bfloat16()
    x[0, 100] = value
    y = ops.sparse_ffn(x, weights)
    assert not torch.isfinite(y[0]).all()
    assert torch.equal(torch.isnan(y[0]), torch.isnan(reference.sparse_ffn(x, weights)[0]))


@pytest.mark.parametrize("T", [1, 4, 9])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_of_inactive_neurons_never_reach_the_output(value, T, variant):
    weights = random_weights(576, 1536, torch.bfloat16, threshold=1.5)
    x = torch.randn(T, 576).bfloat16()
    y = ops.sparse_ffn(x, weights)
    inactive = (operators.gate_up(x, weights) == 0).all(dim=0)
    weights.up_proj[inactive] = value
    weights.down_projT[inactive] = value
    assert torch.equal(ops.sparse_ffn(x, weights), y)
    weights.down_projT[int((~inactive).nonzero()[0])] = value
    assert not torch.isfinite(ops.sparse_ffn(x, weights)).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_is_rounded_as_torch_rounds_it(dtype, variant):
    """All 16-bit numbers there and back, halfway cases, subnormals and overflow."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    halves = torch.arange(-(2**31), 2**31, 2**15 // 4 + 1, dtype=torch.int64).to(torch.int32)
    values = bits.view(dtype) if dtype != torch.float32 else halves.view(dtype)
    down = torch.ones(1, 1, dtype=dtype)
    for chunk in torch.cat([values, halves.view(torch.float32).to(dtype)]).split(4096):
        one = torch.ones(1, 1, dtype=dtype)
        y = ops.sparse_down(one, chunk[None].contiguous())
        assert torch.equal(y.nan_to_num(7), (1.0 * chunk[None].float()).to(dtype).nan_to_num(7))
    sums = halves.view(torch.float32)[None]
    h = operators.sparse_ffn(
        torch.zeros(1, sums.shape[1], dtype=dtype),
        FFNWeights(
            torch.zeros(1, sums.shape[1], dtype=dtype),
            None,
            down.expand(1, sums.shape[1]).contiguous(),
        ),
        residual=sums,
    )
    assert torch.equal(h.nan_to_num(7), sums.to(dtype).nan_to_num(7))


def test_groups_that_are_no_whole_blocks_are_left_to_the_reference():
    values, scales = torch.randint(-9, 9, (6, 24), dtype=torch.int8), torch.ones(6, 3).half()
    weights = FFNWeights(values, values, values, scales, scales, scales)
    x = torch.randn(2, 24)
    assert torch.equal(ops.sparse_ffn(x, weights), reference.sparse_ffn(x, weights))


def test_views_that_are_not_aligned_or_contiguous(variant):
    weights = random_weights(576, 1536, torch.bfloat16)
    x = torch.randn(576 * 3 + 1).bfloat16()
    shifted = x[1:577][None]
    y = ops.sparse_ffn(shifted, weights)
    assert torch.equal(y, ops.sparse_ffn(shifted.clone(), weights))
    columns = x[1:].view(576, 3).T
    expected = ops.sparse_ffn(columns.contiguous(), weights)
    assert torch.equal(ops.sparse_ffn(columns, weights), expected)
    storage = torch.empty(1536 * 576 + 1, dtype=torch.bfloat16)
    odd = storage[1:].view(1536, 576).copy_(weights.up_proj)
    assert torch.equal(ops.sparse_ffn(shifted, replace(weights, up_proj=odd)), y)


def test_python_threads_may_call_at_once(pool):
    torch.set_num_threads(2)
    layers = [random_weights(576, 1536, torch.bfloat16, threshold=t) for t in (0.0, 0.5, 1.0)]
    xs = [torch.randn(1, 576).bfloat16() for _ in layers]
    expected = [ops.sparse_ffn(x, w) for x, w in zip(xs, layers, strict=True)]
    found = [[] for _ in layers]

    def call(i):
        torch.set_num_threads(2)
        found[i] += [operators.sparse_ffn(xs[i], layers[i]) for _ in range(50)]

    callers = [threading.Thread(target=call, args=(i,)) for i in range(len(layers))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for results, right in zip(found, expected, strict=True):
        assert len(results) == 50
        assert all(torch.equal(y, right) for y in results)
