# SPDX-License-Identifier: Apache-2.0
"""On how many tokens each neuron is active."""

import numpy as np
import torch
from hypothesis import given

from prosparse.measurement.neurons import NeuronCounts, write_counts
from prosparse.records.activity import FREQUENCY_EDGES
from tests.measurement.activations import masks

CPU = torch.device("cpu")


def counted(*batches) -> NeuronCounts:
    counts = NeuronCounts(1, batches[0].shape[-1], CPU)
    for mask in batches:
        num_tokens = mask.shape[0] * mask.shape[1]
        counts.observe(mask.sum((0, 1), dtype=torch.int32)[None], num_tokens)
    return counts


def active_on(*num_active: int, num_tokens: int) -> NeuronCounts:
    """Neuron j is active on num_active[j] of the tokens."""
    tokens = torch.arange(num_tokens)[None, :, None]
    return counted(tokens < torch.tensor(num_active))


@given(masks())
def test_each_neuron_is_counted(mask):
    counts = counted(mask)
    by_hand = [
        sum(bool(mask[b, s, f]) for b in range(mask.shape[0]) for s in range(mask.shape[1]))
        for f in range(mask.shape[2])
    ]
    assert counts.active_LF.tolist() == [by_hand]
    assert counts.num_tokens == mask.shape[0] * mask.shape[1]
    assert sum(counts.histogram()[0]) == mask.shape[2]


@given(masks())
def test_batches_change_nothing(mask):
    assert torch.equal(counted(*mask.split(1)).active_LF, counted(mask).active_LF)


def test_dead_is_below_a_thousandth_and_always_on_above_the_rest():
    counts = active_on(0, 1, 2, 1998, 1999, 2000, num_tokens=2000)
    assert counts.dead() == (2,)  # 0 and 0.05 %; a tenth of a percent is alive
    assert counts.always_on() == (2,)  # 99.95 % and 100 %; 99.9 % is not


def test_the_edges_belong_to_the_bin_above_and_the_last_holds_all():
    counts = active_on(0, 1, 100, 299, 300, 999, 1000, num_tokens=1000)
    (histogram,) = counts.histogram()
    assert len(histogram) == len(FREQUENCY_EDGES) - 1
    found = dict(zip(FREQUENCY_EDGES, histogram, strict=False))
    assert found == {**dict.fromkeys(FREQUENCY_EDGES[:-1], 0),
                     0.0: 1, 0.001: 1, 0.1: 1, 0.2: 1, 0.3: 1, 0.999: 2}  # fmt: skip


def test_data_sets_add_up():
    one, two = active_on(1, 2, num_tokens=4), active_on(3, 0, num_tokens=6)
    one.add(two)
    assert one.active_LF.tolist() == [[4, 2]]
    assert one.frequency_LF().tolist() == [[0.4, 0.2]]


def test_the_file_holds_every_neuron_of_every_data_set(tmp_path):
    counts = {"file": active_on(1, 2, num_tokens=4), "a/b": active_on(3, 0, num_tokens=6)}
    with np.load(write_counts(counts, tmp_path)) as found:
        assert found["data"].tolist() == ["file", "a/b"]
        assert found["num_tokens"].tolist() == [4, 6]
        assert found["active"].tolist() == [[[1, 2]], [[3, 0]]]
