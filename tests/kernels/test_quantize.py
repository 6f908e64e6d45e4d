# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prosparse.kernels.quantize import dequantize, quantize


def test_four_bits_lie_as_the_page_says():
    row = torch.tensor([[-8, -7, -1, 0, 1, 2, 3, 7] * 4], dtype=torch.float32)
    row[0, 8:] *= 7 / 8  # nothing is larger than the first -8 once it is clamped to the scale
    values, scales = quantize(row, 4, 32)
    assert values.shape == (1, 16)
    assert scales.shape == (1, 1)
    q = (row[0, :8] / scales.item()).round().clamp(-8, 7).int() + 8
    assert values[0, :4].tolist() == [int(q[j] | q[j + 4] << 4) for j in range(4)]


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 9),
    groups=st.integers(1, 4),
    size=st.sampled_from([32, 64, 128]),
    bits=st.sampled_from([8, 4]),
    exponent=st.integers(-6, 6),
)
def test_every_value_is_the_nearest_multiple_of_its_scale(rows, groups, size, bits, exponent):
    weight = torch.randn(rows, groups * size) * 2.0**exponent
    values, scales = quantize(weight, bits, size)
    step = scales.float().repeat_interleave(size, dim=1)
    choices = torch.arange(-127, 128) if bits == 8 else torch.arange(-8, 8)
    nearest = (choices * step.unsqueeze(-1) - weight.unsqueeze(-1)).abs().amin(dim=-1)
    error = (dequantize(values, scales) - weight).abs()
    assert (error <= nearest * (1 + 1e-5) + step.abs() * 1e-4).all()


def test_four_bits_round_better_than_a_scale_without_a_sign():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    groups = weight.reshape(64, -1, 64)
    scales = groups.abs().amax(dim=-1, keepdim=True) / 7
    plain = (groups / scales).round() * scales - groups
    ours = (dequantize(*quantize(weight, 4, 64)) - weight).reshape(groups.shape)
    assert ours.square().sum() < 0.75 * plain.square().sum()


@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_rounded_is_not_rounded_again(bits):
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    once = dequantize(*quantize(weight, bits, 64))
    torch.testing.assert_close(dequantize(*quantize(once, bits, 64)), once, rtol=1e-3, atol=1e-6)


def test_values_that_float16_cannot_scale_become_zeros():
    for bits in (8, 4):
        assert not dequantize(*quantize(torch.full((2, 64), 1e-8), bits, 32)).any()


def test_zeros_stay_zeros():
    for bits in (8, 4):
        assert not dequantize(*quantize(torch.zeros(3, 64), bits, 32)).any()


@pytest.mark.parametrize(
    ("bits", "size", "complaint"),
    [(5, 32, "8 or 4"), (8, 48, "32, 64 or 128"), (8, 64, "divide")],
)
def test_what_cannot_be_is_refused(bits, size, complaint):
    with pytest.raises(ValueError, match=complaint):
        quantize(torch.randn(2, 96), bits, size)
