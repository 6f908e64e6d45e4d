# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosparse.data.packing import PackedDocuments
from prosparse.errors import UserError

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=20)


def epoch(packed: PackedDocuments, number: int) -> np.ndarray:
    first = number * packed.blocks_per_epoch
    return np.concatenate([packed.block(first + i) for i in range(packed.blocks_per_epoch)])


@given(lengths=LENGTHS, context_length=st.integers(1, 15), number=st.integers(0, 3), data=st.data())
def test_an_epoch_is_a_permutation_of_the_documents_end_to_end(
    make_store, lengths, context_length, number, data
):
    store = make_store([*lengths, context_length])  # one document more, so that a block is full
    packed = PackedDocuments(store, context_length, seed=data.draw(st.integers(0, 5)))
    tokens = epoch(packed, number)
    assert len(tokens) == store.num_tokens // context_length * context_length
    remaining = {int(store.document(i)[0]): store.document(i) for i in range(store.num_documents)}
    place = 0
    while place < len(tokens):
        document = remaining.pop(int(tokens[place]))  # starts a document not seen before
        piece = tokens[place : place + len(document)]
        assert np.array_equal(piece, document[: len(piece)])
        place += len(document)


@given(lengths=LENGTHS, context_length=st.integers(1, 15))
def test_without_shuffling_every_epoch_is_in_file_order(make_store, lengths, context_length):
    store = make_store([*lengths, context_length])
    packed = PackedDocuments(store, context_length, seed=0, shuffle=False)
    for number in (0, 1):
        tokens = epoch(packed, number)
        assert np.array_equal(tokens, np.arange(len(tokens)))


def test_a_block_depends_on_its_index_alone(make_store):
    store = make_store(range(1, 30))
    packed = PackedDocuments(store, 8, seed=3)
    indices = [0, 150, 7, 54, 53, 0]
    fresh = [PackedDocuments(store, 8, seed=3).block(i) for i in indices]
    assert all(np.array_equal(packed.block(i), b) for i, b in zip(indices, fresh, strict=True))
    assert fresh[0].dtype == np.int64
    assert fresh[0].shape == (8,)


def test_epochs_and_seeds_differ(make_store):
    store = make_store([3] * 50)
    packed = PackedDocuments(store, 10, seed=0)
    assert not np.array_equal(epoch(packed, 0), epoch(packed, 1))
    assert not np.array_equal(epoch(packed, 0), epoch(PackedDocuments(store, 10, seed=1), 0))


def test_a_store_smaller_than_a_block_is_refused(make_store):
    with pytest.raises(UserError, match="has 9 tokens, fewer than one block of 10"):
        PackedDocuments(make_store([4, 5]), 10, seed=0)
