# SPDX-License-Identifier: Apache-2.0
"""How large the non-zeros are."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prosparse.kernels.activity import sample_activity
from prosparse.measurement.magnitudes import Magnitudes


def histogram(*values: torch.Tensor):
    magnitudes = Magnitudes(1, torch.device("cpu"))
    for value in values:
        sample = sample_activity(value.reshape(1, 1, -1), torch.zeros(1, dtype=torch.int64))
        magnitudes.observe(sample.by_exponent[None])
    return magnitudes.histogram()


@given(st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1))
def test_a_bin_holds_a_power_of_two(values):
    first, (counts,) = histogram(torch.tensor(values))
    expected: dict[int, int] = {}
    for value in values:
        if value != 0:
            exponent = math.frexp(abs(value))[1] - 1
            expected[exponent] = expected.get(exponent, 0) + 1
    assert {first + i: n for i, n in enumerate(counts) if n} == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_counts_alike(dtype):
    values = torch.tensor([[0.0, -0.0, 1.0, -1.5, 2.0, 0.25]], dtype=dtype)
    assert histogram(values) == (-2, ((1, 0, 2, 1),))


def test_a_layer_without_non_zeros_has_no_magnitudes():
    assert histogram(torch.zeros(3)) == (0, ((0,),))


def test_tiny_numbers_are_not_zeros():
    assert histogram(torch.tensor([0.0, 1e-40])) == (-127, ((1,),))


def test_a_view_of_every_other_entry_is_read_right():
    assert histogram(torch.tensor([1.0, 8.0, 1.0, 8.0])[::2]) == (0, ((2,),))
