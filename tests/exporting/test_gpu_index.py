# SPDX-License-Identifier: Apache-2.0
"""Counts of how often neurons fire, and the neurons that go to a GPU."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prosparse.exporting.gpu_index import count_firing, most_active, write_counts, write_gpu_index
from prosparse.measurement.passes import Passes
from prosparse.measurement.perplexity import Windows
from prosparse.model.ffn import ffns
from prosparse.model.tap import tap
from tests.conftest import tiny_llama
from tests.exporting.reading import read


def test_counts_are_those_of_a_pass(tmp_path):
    model = tiny_llama(hidden_act="relu")
    ids = torch.randint(257, (3, 16), generator=torch.Generator().manual_seed(0))
    counts = count_firing(Passes(model, [Windows("a", "a", ids)], "float32"))
    seen = {}
    with torch.no_grad(), tap(ffns(model), seen.__setitem__):
        model(ids)
    for layer, x1 in seen.items():
        assert torch.equal(counts[layer], (x1 != 0).sum(dim=(0, 1)))
    write_counts(counts, tmp_path)
    found = torch.load(tmp_path / "activation" / "activation_1.pt", weights_only=True)
    assert found.dim() == 1
    assert torch.equal(found, counts[1])


COUNTS = torch.tensor([[9, 1, 8, 0], [2, 3, 2, 7]])


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (0, [[0], [3]]),  # one of each layer at least
        (3, [[0, 2], [3]]),
        (4, [[0, 2], [1, 3]]),
        (99, [[0, 1, 2, 3], [0, 1, 2, 3]]),
    ],
)
def test_the_most_active_are_chosen_whatever_their_layer(room, expected):
    assert [chosen.tolist() for chosen in most_active(COUNTS, room)] == expected


@given(st.integers(0, 40), st.integers(0, 2**31))
def test_no_neuron_left_out_is_more_active_than_a_chosen_one(room, seed):
    counts = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(seed))
    chosen = most_active(counts, room)
    assert sum(map(len, chosen)) == min(36, max(3, room))
    is_in = torch.zeros_like(counts, dtype=torch.bool)
    for layer, neurons in enumerate(chosen):
        assert neurons.tolist() == sorted(set(neurons.tolist()))
        is_in[layer, neurons] = True
    extra = is_in.clone()
    extra[torch.arange(3), counts.argmax(dim=1)] = False  # those stand anyway
    if extra.any() and (~is_in).any():
        assert counts[extra].min() >= counts[~is_in].max()


def test_the_index_file(tmp_path):
    path = tmp_path / "x.gpuidx"
    write_gpu_index(COUNTS, path, capacity=350, bytes_of_neuron=100)
    assert path.read_bytes()[:8] == b"PWRI\x03\x00\x00\x00"
    keys, tensors = read(path)
    assert keys["general.architecture"] == "generic.gpu_index"
    assert keys["generic.gpu_index.block_count"] == 2
    assert keys["split.vram_capacity"] == 350
    assert list(tensors) == [
        "blk.0.gpu_idx", "blk.0.gpu_bucket", "blk.1.gpu_idx", "blk.1.gpu_bucket",
    ]  # fmt: skip
    assert {type_ for type_, _, _ in tensors.values()} == {"I32"}
    assert tensors["blk.0.gpu_idx"][2].tolist() == [1, 0, 1, 0]
    assert tensors["blk.0.gpu_bucket"][2].tolist() == [0, 2]
    assert tensors["blk.1.gpu_bucket"][2].tolist() == [3]
