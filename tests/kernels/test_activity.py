# SPDX-License-Identifier: Apache-2.0
"""Counts of active entries: every backend against counts by hand."""

import pytest
import torch

from prosparse.kernels.activity import (
    NUM_EXPONENTS,
    SPAN_SIZES,
    count_active,
    count_activity,
    sample_activity,
)
from prosparse.kernels.backend import use_backend
from tests.kernels.cases import DTYPES

SHAPES = [(1, 1, 1), (2, 2, 3), (3, 33, 130), (1, 31, 17), (2, 70, 48), (5, 32, 257)]


@pytest.fixture(params=["reference", "triton"])
def backend(request):
    """Run the operators with a backend; give the device that their tensors must be on."""
    device = "cpu"
    if request.param == "triton":
        pytest.importorskip("triton")
        device = request.getfixturevalue("triton_device")
    with use_backend(request.param):
        yield device


def intermediate(shape, dtype=torch.float32, density=0.3, device="cpu"):
    """Return x_1 of both signs, with NaN, infinity, a subnormal number and -0 where there is room."""
    generator = torch.Generator().manual_seed(sum(shape))
    x1 = torch.randn(shape, generator=generator)
    x1 *= torch.rand(shape, generator=generator) < density
    odd = torch.tensor([torch.nan, -torch.inf, 1e-40, -0.0])[: x1.numel() - 1]
    x1.view(-1)[: len(odd)] = odd
    return x1.to(device, dtype)


def of_spans(mask) -> list[int]:
    return [
        sum(
            int(window[start : start + size].any(0).sum())
            for window in mask
            for start in range(0, mask.shape[1] - size + 1, size)
        )
        for size in SPAN_SIZES
    ]


def check(x1):
    mask = (x1 != 0).cpu()
    found = count_activity(x1)
    assert [count.dtype for count in found] == [torch.int32] * 3 + [torch.int64]
    assert torch.equal(found.by_token.cpu(), mask.sum(-1, dtype=torch.int32))
    both = (mask[:, 1:] & mask[:, :-1]).sum(-1, dtype=torch.int32)
    assert torch.equal(found.with_next.cpu(), both)
    assert torch.equal(found.by_neuron.cpu(), mask.sum((0, 1), dtype=torch.int32))
    assert found.by_span.tolist() == of_spans(mask)
    by_token = count_active(x1.flatten(0, 1))
    assert by_token.dtype == torch.int32
    assert torch.equal(by_token.cpu(), mask.sum(-1, dtype=torch.int32).flatten())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_entry_that_is_not_zero_counts(shape, backend):
    check(intermediate(shape, device=backend))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_counts(dtype, backend):
    check(intermediate((2, 40, 37), dtype, device=backend))


@pytest.mark.parametrize("value", [0.0, 1.0, torch.nan])
def test_empty_and_full_masks(value, backend):
    check(torch.full((2, 65, 19), value, device=backend))


def test_a_part_of_a_larger_tensor(backend):
    x1 = intermediate((3, 40, 64), device=backend)
    check(x1[:, 1:, :50])
    check(x1.transpose(0, 1))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_samples_are_masks_and_exponents_at_their_places(shape, dtype, backend):
    x1 = intermediate(shape, dtype, device=backend)
    places = torch.arange(0, shape[1], 3, device=backend)
    found = sample_activity(x1, places)
    sampled = x1[:, places]
    assert torch.equal(found.mask, sampled != 0)
    values = sampled[sampled != 0].float().view(torch.int32)
    exponents = torch.bincount((values.cpu() >> 23) & 0xFF, minlength=NUM_EXPONENTS)
    assert torch.equal(found.by_exponent.cpu(), exponents)


def test_two_runs_are_equal(backend):
    x1 = intermediate((3, 33, 130), device=backend)
    for first, second in zip(count_activity(x1), count_activity(x1), strict=True):
        assert torch.equal(first, second)


def test_more_zeros_than_a_float32_counts():
    x1 = torch.zeros(1, 1, 2**24 + 3)
    x1[..., 0] = 1
    with use_backend("reference"):
        by_exponent = sample_activity(x1, torch.tensor([0])).by_exponent
    assert by_exponent[127] == by_exponent.sum() == 1


def test_opcheck():
    x1, places = intermediate((2, 3, 8)), torch.tensor([0, 2])
    library = torch.ops.prosparse
    torch.library.opcheck(library.count_active, (x1[0],))
    torch.library.opcheck(library.count_activity, (x1,))
    torch.library.opcheck(library.sample_activity, (x1, places))
