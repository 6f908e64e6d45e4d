# SPDX-License-Identifier: Apache-2.0
import logging
import pickle

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prosparse.data.mixture import Component, Mixture, build_mixture
from prosparse.data.packing import PackedDocuments
from prosparse.errors import UserError
from prosparse.records.codec import decode, encode

WEIGHTS = st.lists(st.floats(0.01, 100) | st.integers(1, 4), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def packed(make_store):
    """Return blocks of four tokens that tell the component and the block: 16 blocks each."""
    return {name: PackedDocuments(make_store([64]), 4, 0, shuffle=False) for name in "abcdef"}


def mix(packed, weights, num_samples):
    named = dict(zip(packed, weights, strict=False))
    return Mixture({name: packed[name] for name in named}, named, num_samples)


def in_order_of_due_time(mixture: Mixture, num_samples: int) -> list[tuple[str, int]]:
    """The definition: sort all blocks by (j + 1/2) / share, ties by component."""
    due = [
        ((j + 0.5) / share, place, j)
        for place, share in enumerate(mixture.shares.values())
        for j in range(num_samples)
    ]
    names = list(mixture.shares)
    return [(names[place], j) for _, place, j in sorted(due)[:num_samples]]


@given(weights=WEIGHTS)
def test_blocks_are_taken_in_the_order_in_which_they_are_due(packed, weights):
    mixture = mix(packed, weights, 150)
    assert [mixture.place(i) for i in range(150)] == in_order_of_due_time(mixture, 150)


@given(weights=WEIGHTS, start=st.integers(0, 10**9))
def test_far_along_every_block_is_still_taken_once_in_order(packed, weights, start):
    mixture = mix(packed, weights, 2 * 10**9)
    places = [mixture.place(i) for i in range(start, start + 100)]
    for name in mixture.shares:
        blocks = [block for found, block in places if found == name]
        assert blocks == list(range(blocks[0], blocks[0] + len(blocks))) if blocks else True


@given(weights=WEIGHTS)
def test_shares_match_the_weights_at_every_prefix(packed, weights):
    mixture = mix(packed, weights, 200)
    shares = np.array(weights) / sum(weights)
    taken = np.array(
        [[mixture.component_of(i) == name for name in mixture.shares] for i in range(200)]
    )
    counts = taken.cumsum(axis=0)
    expected = np.arange(1, 201)[:, None] * shares
    bound = (1 - shares) / 2 + shares * (len(weights) - 1) / 2
    assert (np.abs(counts - expected) <= bound + 1e-6).all()


def test_two_components_stay_within_half_a_block(packed):
    mixture = mix(packed, [3, 1], 8)
    assert "".join(mixture.component_of(i) for i in range(8)) == "aabaaaba"


def test_a_longer_run_begins_alike(packed):
    short, long = mix(packed, [1, 2.5, 0.3], 40), mix(packed, [1, 2.5, 0.3], 10**9)
    assert [short.place(i) for i in range(40)] == [long.place(i) for i in range(40)]


def test_samples_are_the_components_blocks(packed):
    mixture = mix(packed, [1, 1], 100)
    for index in (0, 1, 99, 0):
        name, block = mixture.place(index)
        sample = mixture[index]
        assert sample["input_ids"].dtype == torch.int64
        assert sample["input_ids"].tolist() == packed[name].block(block).tolist()
        assert sample["labels"].tolist() == sample["input_ids"].tolist()
    assert len(mixture) == 100
    with pytest.raises(IndexError):
        mixture[100]


def test_worker_processes_see_the_same_stream(packed):
    mixture = mix(packed, [1, 2], 50)
    copy = pickle.loads(pickle.dumps(mixture))
    assert all(torch.equal(mixture[i]["input_ids"], copy[i]["input_ids"]) for i in range(50))


def test_a_component_is_written_flat():
    data = {"path": "a.jsonl", "weight": 2}
    component = decode(Component, data, "recipe.yaml")
    assert component == Component("a.jsonl", weight=2.0)
    assert decode(Component, encode(component), "recipe.yaml") == component


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_a_weight_must_be_positive(weight):
    with pytest.raises(UserError, match="weight must be greater than 0; found"):
        Component("a.jsonl", weight=weight)


def build(components, tokenizer, tmp_path, num_samples=10):
    return build_mixture(components, tokenizer, 4, num_samples, tmp_path / "tokens", 0, False)


def test_without_weights_components_count_by_their_tokens(write_jsonl, tokenizer, tmp_path):
    prose = Component(write_jsonl(*["w1 w2 w3"] * 6, name="prose.jsonl"))
    code = Component(write_jsonl(*["w4"] * 4, name="code.jsonl"))
    mixture = build({"prose": prose, "code": code}, tokenizer, tmp_path)
    assert mixture.shares == {"prose": 0.75, "code": 0.25}
    assert sorted(p.name for p in (tmp_path / "tokens").iterdir()) == ["code", "prose"]
    assert mixture[0]["input_ids"].tolist() == [1, 2, 3, 101]


def test_all_components_have_a_weight_or_none(write_jsonl, tokenizer, tmp_path):
    path = write_jsonl("w1")
    components = {"a": Component(path, weight=1.0), "b": Component(path)}
    with pytest.raises(UserError, match="these have none: b"):
        build(components, tokenizer, tmp_path)
    with pytest.raises(UserError, match="no data components"):
        build({}, tokenizer, tmp_path)


def test_many_epochs_are_warned_of(write_jsonl, tokenizer, tmp_path, caplog):
    components = {
        "small": Component(write_jsonl("w1 w2 w3", name="small.jsonl"), weight=1.0),
        "large": Component(write_jsonl(*["w1 w2 w3"] * 9, name="large.jsonl"), weight=1.0),
    }
    with caplog.at_level(logging.WARNING):
        build(components, tokenizer, tmp_path, num_samples=11)
    (message,) = caplog.messages
    assert message.startswith("Data component 'small' has 4 tokens and will be repeated for 5.5")


@pytest.mark.parametrize("weight", [None, 1.0])
def test_a_hub_stream_is_read_as_far_as_the_run_needs(
    write_jsonl, tokenizer, tmp_path, monkeypatch, weight
):
    def load_dataset(*args, **kwargs):
        while True:
            yield {"text": "w7 w7 w7"}

    components = {"local": Component(write_jsonl(*["w1 w2 w3"] * 9), weight=weight)}
    build(components, tokenizer, tmp_path)  # before the hub takes the place of the local reader
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("prosparse.data.tokens.BATCH_CHARACTERS", 20)
    components["hub"] = Component("some/data", weight=weight)
    mixture = build(components, tokenizer, tmp_path)
    needed = 7 if weight else 12
    assert mixture.packed["hub"].blocks_per_epoch == needed
    assert max(mixture.place(i)[1] for i in range(10)) < needed
