# SPDX-License-Identifier: Apache-2.0
"""How many neurons a token activates, by its place and as a distribution."""

import pytest
import torch
from hypothesis import given

from prosparse.measurement.tokens import TokenCounts, position_starts
from prosparse.records.activity import TOKEN_BINS
from tests.measurement.activations import masks


def counted(mask) -> TokenCounts:
    _, length, d_ff = mask.shape
    counts = TokenCounts(1, d_ff, length, torch.device("cpu"))
    for window in mask.split(1):
        counts.observe(window.sum(-1, dtype=torch.int32)[None])
    return counts


@pytest.mark.parametrize(
    ("length", "starts"),
    [(1, (0,)), (2, (0, 1)), (3, (0, 1, 2)), (4, (0, 1, 2)), (5, (0, 1, 2, 4)),
     (1024, (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512))],
)  # fmt: skip
def test_buckets_double(length, starts):
    assert position_starts(length) == starts


@given(masks())
def test_a_bucket_is_the_mean_of_its_places(mask):
    counts = counted(mask)
    ends = (*counts.starts[1:], mask.shape[1])
    expected = [
        mask[:, a:b].double().mean().item() for a, b in zip(counts.starts, ends, strict=True)
    ]
    assert counts.by_position()[0] == pytest.approx(expected, abs=1e-12)


@given(masks())
def test_every_token_is_in_the_bin_of_its_share(mask):
    expected = [0] * TOKEN_BINS
    for token in mask.flatten(0, 1).tolist():
        expected[min(sum(token) * TOKEN_BINS // len(token), TOKEN_BINS - 1)] += 1
    assert counted(mask).histogram() == (tuple(expected),)


def test_data_sets_add_up():
    one, two = torch.zeros(1, 2, 4, dtype=torch.bool), torch.ones(3, 2, 4, dtype=torch.bool)
    counts = counted(one)
    counts.add(counted(two))
    assert counts.by_position() == counted(torch.cat([one, two])).by_position() == ((0.75, 0.75),)
    assert sum(counts.histogram()[0]) == 8
