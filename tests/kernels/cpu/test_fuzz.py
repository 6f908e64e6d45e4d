# SPDX-License-Identifier: Apache-2.0
"""Whatever shape, dtype, mask and number of threads: the reference's result, to the last bit.

Weights and inputs are small whole numbers (and here and there NaN or infinity), so every float32 sum is
exact in any order, and the kernels have no excuse.
"""

from dataclasses import replace

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from prosparse.kernels import reference
from prosparse.kernels.cpu import operators
from prosparse.kernels.ffn_weights import FFNWeights
from tests.kernels.cpu.conftest import VARIANTS, use

SPECIAL = st.sampled_from([None, None, None, torch.nan, torch.inf, -torch.inf])


def whole_numbers(shape, largest, generator, dtype=torch.float32):
    drawn = torch.randint(-largest, largest + 1, shape, generator=generator)
    return drawn.to(dtype)


def pack(values):
    """Return int8 [F, D] as `quantize` packs four bits."""
    low, high = (values + 8).to(torch.uint8).reshape(len(values), -1, 2, 4).unbind(dim=2)
    return (low | (high << 4)).reshape(len(values), -1)


def matrix(draw, F, D, bits, dtype, generator):
    """Return (values, scales, special): a matrix, its scales if quantized."""
    if bits is None:
        found = whole_numbers((F, D), 2, generator, dtype)
        special = draw(SPECIAL)
        if special is not None:
            found[draw(st.integers(0, F - 1)), draw(st.integers(0, D - 1))] = special
        return found, None
    values = whole_numbers((F, D), 2, generator, torch.int8)
    groups = D // draw(st.sampled_from([32, 64, D]))
    assume(groups and D % groups == 0 and D // groups % 32 == 0)
    scales = 2.0 ** whole_numbers((F, groups), 1, generator) / 2
    return (values if bits == 8 else pack(values)), scales.half()


@st.composite
def cases(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    bits = draw(st.sampled_from([None, None, 8, 4]))
    D = draw(st.integers(1, 100)) if bits is None else 32 * draw(st.integers(1, 6))
    F, T = draw(st.integers(1, 100)), draw(st.integers(1, 16))
    gate, up, down = (matrix(draw, F, D, bits, dtype, generator) for _ in range(3))
    if draw(st.booleans()):
        up = (None, None)
    biases = [
        whole_numbers((size,), 3, generator, dtype) if draw(st.booleans()) else None
        for size in (F, F, D)
    ]
    if up[0] is None:
        biases[1] = None
    threshold = draw(st.sampled_from([0.0, 1.0, 3.0, 9.0, 500.0]))
    shift = draw(st.sampled_from([0.0, 1.0, 4.0])) if threshold == 0 else 0.0
    weights = FFNWeights(
        gate[0], up[0], down[0], gate[1], up[1], down[1], *biases,
        threshold, shift, up[0] is not None and draw(st.booleans()),
    )  # fmt: skip
    x = whole_numbers((T, D), 1, generator, dtype)
    special = draw(SPECIAL)
    if special is not None:
        x[draw(st.integers(0, T - 1)), draw(st.integers(0, D - 1))] = special
    wants = draw(st.sampled_from([None, torch.float32, dtype]))
    residual = None if wants is None else whole_numbers((T, D), 9, generator, wants)
    return x, weights, residual, draw(st.booleans())


def equal(found, expected):
    assert found.dtype == expected.dtype
    return torch.equal(found.isnan(), expected.isnan()) and torch.equal(
        found.nan_to_num(7, 8, 9), expected.nan_to_num(7, 8, 9)
    )


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    case=cases(), variant=st.sampled_from(VARIANTS), threads=st.integers(1, 5), own=st.booleans()
)
def test_any_ffn_is_the_reference_bit_for_bit(case, variant, threads, own):
    x, weights, residual, float32_output = case
    assume(use(variant))
    operators.library().prosparse_use_openmp(not own)
    torch.set_num_threads(threads)
    x1 = operators.gate_up(x, weights)
    assert equal(x1, reference.gate_up(x, weights))
    y = operators.sparse_ffn(x, weights, residual, float32_output)
    assert equal(y, reference.sparse_ffn(x, weights, residual, float32_output))
    if weights.gate_scales is None:
        pre = (x.float() @ weights.gate_proj.float().T).to(x.dtype)
        t = weights.threshold
        pair = operators.sparse_up(pre, x, weights.gate_proj, t)
        assert equal(pair, reference.sparse_up(pre, x, weights.gate_proj, t))
        found = operators.sparse_down(x1, weights.down_projT)
        assert equal(found, reference.sparse_down(x1, weights.down_projT))


@st.composite
def predicted_cases(draw):
    x, weights, _, _ = draw(cases().filter(lambda case: case[1].gate_scales is None))
    weights = replace(weights, gate_bias=None, up_bias=None, down_bias=None)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    R, F = draw(st.integers(1, 60)), len(weights.gate_proj)
    fc1 = whole_numbers((R, x.shape[1]), 1, generator, x.dtype)
    fc2T = whole_numbers((R, F), 1, generator, x.dtype)
    return x, weights, fc1, fc2T, draw(st.sampled_from([-3.0, 0.0, 0.5, 4.0, -torch.inf]))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(case=predicted_cases(), variant=st.sampled_from(VARIANTS), threads=st.integers(1, 5))
def test_any_ffn_behind_a_predictor_is_the_reference_bit_for_bit(case, variant, threads):
    assume(use(variant))
    torch.set_num_threads(threads)
    assert equal(operators.predicted_ffn(*case), reference.predicted_ffn(*case))
