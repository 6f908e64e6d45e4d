# SPDX-License-Identifier: Apache-2.0
"""How alike the active neurons of neighbors are."""

import math

import pytest
import torch
from hypothesis import given

from prosparse.kernels.activity import count_activity
from prosparse.measurement.overlap import NeighborOverlap
from tests.measurement.activations import masks


def overlap_of(*batches) -> NeighborOverlap:
    overlap = NeighborOverlap(1, torch.device("cpu"))
    for mask in batches:
        counts = count_activity(mask)
        overlap.observe(counts.with_next[None], counts.by_token[None])
    return overlap


@given(masks())
def test_it_is_the_mean_over_pairs_within_a_window(mask):
    indices = []
    for window in mask.tolist():
        for before, after in zip(window, window[1:], strict=False):
            one = {j for j, active in enumerate(before) if active}
            two = {j for j, active in enumerate(after) if active}
            if one | two:
                indices.append(len(one & two) / len(one | two))
    (found,) = overlap_of(mask).mean()
    if indices:
        assert found == pytest.approx(sum(indices) / len(indices), abs=1e-12)
        assert overlap_of(*mask.split(1)).mean()[0] == pytest.approx(found, abs=1e-12)
    else:
        assert math.isnan(found)


def test_data_sets_add_up():
    same = torch.ones(1, 2, 4, dtype=torch.bool)
    apart = torch.tensor([[[1, 0], [0, 1], [1, 0], [0, 1]]]).bool()
    overlap = overlap_of(same)
    overlap.add(overlap_of(apart))
    assert overlap.mean() == (0.25,)  # one pair of four is alike
