# SPDX-License-Identifier: Apache-2.0
"""What several tokens need together."""

import pytest
import torch
from hypothesis import given

from prosparse.kernels.activity import SPAN_SIZES, count_activity
from prosparse.measurement.unions import BatchUnion, SpanUnion
from prosparse.records.activity import GROUP_SIZES
from tests.measurement.activations import masks

CPU = torch.device("cpu")


def spans(*batches) -> SpanUnion:
    union = SpanUnion(1, batches[0].shape[2], batches[0].shape[1], CPU)
    for mask in batches:
        union.observe(count_activity(mask).by_span[None], len(mask))
    return union


def batches_of(*batches) -> BatchUnion:
    union = BatchUnion(1, batches[0].shape[2], CPU)
    for mask in batches:
        union.observe(mask[None])
    return union


def test_the_operator_counts_the_sizes_of_the_record():
    assert SPAN_SIZES == GROUP_SIZES


@given(masks(max_length=70))
def test_spans_are_the_unions_of_consecutive_tokens(mask):
    union = spans(mask)
    for size, found in zip(union.sizes, union.shares()[0], strict=True):
        groups = mask.shape[1] // size
        by_hand = [
            mask[b, g * size : (g + 1) * size].any(0).double().mean()
            for b in range(mask.shape[0])
            for g in range(groups)
        ]
        assert found == pytest.approx(torch.stack(by_hand).mean().item(), abs=1e-12)
    assert union.sizes == tuple(size for size in GROUP_SIZES if size <= mask.shape[1])
    assert spans(*mask.split(1)).shares() == union.shares()


@given(masks(max_windows=70, max_length=3))
def test_batches_are_the_unions_of_windows_at_the_same_place(mask):
    union = batches_of(mask)
    for size, found in zip(union.sizes, union.shares()[0], strict=True):
        groups = [mask[g * size : (g + 1) * size].any(0) for g in range(len(mask) // size)]
        assert found == pytest.approx(torch.stack(groups).double().mean().item(), abs=1e-12)
    assert union.sizes == tuple(size for size in GROUP_SIZES if size <= len(mask))


@given(masks(max_windows=40))
def test_how_windows_come_changes_nothing(mask):
    assert batches_of(*mask.split(1)).shares() == batches_of(mask).shares()
    assert batches_of(*mask.split(3)).shares() == batches_of(mask).shares()


@given(masks(max_windows=33, max_length=33))
def test_a_union_grows_with_its_group(mask):
    # Whole groups only: with a rest left out, the tokens of two sizes are not the same.
    windows, length = (2 ** (n.bit_length() - 1) for n in mask.shape[:2])
    mask = mask[:windows, :length]
    for union in (spans(mask), batches_of(mask)):
        (shares,) = union.shares()
        assert all(a <= b + 1e-12 for a, b in zip(shares, shares[1:], strict=False))
        assert shares[0] == pytest.approx(mask.double().mean().item(), abs=1e-12)


def test_groups_never_span_data_sets():
    first, second = torch.zeros(3, 1, 2, dtype=torch.bool), torch.ones(1, 1, 2, dtype=torch.bool)
    union = batches_of(first)
    union.add(batches_of(second))
    assert union.sizes == (1, 2)
    assert union.shares() == ((0.25, 0.0),)  # 3 and 1 windows; one pair, both of the first


def test_a_mask_that_its_owner_reuses_is_not_ours():
    mask = torch.ones(1, 1, 2, dtype=torch.bool)
    union = BatchUnion(1, 2, CPU)
    union.observe(mask[None])
    mask.zero_()
    union.observe(mask[None])
    assert union.shares() == ((0.5, 1.0),)
