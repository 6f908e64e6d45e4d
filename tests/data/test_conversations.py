# SPDX-License-Identifier: Apache-2.0
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosparse.data.conversations import PackedConversations, block_starts
from prosparse.data.mixture import Component, build_mixture
from prosparse.data.tokens import TokenStore
from prosparse.errors import UserError

PADDING = 99999


@pytest.fixture(scope="module")
def pack(make_store):
    """Pack documents of the given lengths, all but the first token of each an answer."""

    def pack(lengths, context_length, seed=0):
        store = make_store(lengths)
        offsets = np.cumsum([0, *lengths])
        store.answers = np.ones(offsets[-1], dtype="u1")
        store.answers[offsets[:-1]] = 0
        return PackedConversations(store, context_length, seed, PADDING)

    return pack


def pieces(sample) -> list[list[int]]:
    """Split a block where positions start again; padding is left out."""
    real = int(sample["token_mask"].sum())
    ids, positions = sample["input_ids"][:real].tolist(), sample["position_ids"][:real].tolist()
    starts = [i for i, position in enumerate(positions) if position == 0]
    return [ids[a:b] for a, b in zip(starts, [*starts[1:], real], strict=True)]


LENGTHS = st.lists(st.integers(2, 10), min_size=1, max_size=30)


@given(lengths=LENGTHS, seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_an_epoch_holds_every_document_once_and_whole(pack, lengths, seed, epoch):
    packed = pack(lengths, 10, seed)
    num_blocks = packed.blocks_per_epoch
    blocks = [packed.sample(epoch * num_blocks + i) for i in range(num_blocks)]
    found = sorted(piece for block in blocks for piece in pieces(block))
    offsets = np.cumsum([0, *lengths])
    assert found == [list(range(a, b)) for a, b in zip(offsets, offsets[1:], strict=False)]


@given(lengths=LENGTHS)
def test_a_block_takes_documents_while_they_fit(lengths):
    starts = block_starts(np.array(lengths), 10)
    assert (starts[0], starts[-1]) == (0, len(lengths))
    for a, b in zip(starts, starts[1:], strict=False):
        assert sum(lengths[a:b]) <= 10
        assert b == len(lengths) or sum(lengths[a : b + 1]) > 10


@given(lengths=LENGTHS)
def test_only_answers_are_learned_and_padding_is_nothing(pack, lengths):
    packed = pack(lengths, 10)
    for index in range(packed.blocks_per_epoch):
        sample = packed.sample(index)
        ids, labels, mask = (sample[k].tolist() for k in ("input_ids", "labels", "token_mask"))
        firsts = {piece[0] for piece in pieces(sample)}
        for token, label, real in zip(ids, labels, mask, strict=True):
            assert real == (token != PADDING)
            assert label == (token if real and token not in firsts else -100)
        assert {len(part) for part in sample.values()} == {10}


def test_the_first_token_is_never_learned_even_if_it_is_an_answers(make_store):
    store = make_store([3, 3])
    store.answers = np.ones(6, dtype="u1")
    labels = PackedConversations(store, 8, 0, PADDING).sample(0)["labels"].tolist()
    assert [labels[0], labels[3], *labels[6:]] == [-100] * 4


def test_epochs_have_the_same_blocks_in_other_orders(pack):
    packed = pack([7] * 40, 10)
    first, second = ([packed.sample(e * 40 + i)["input_ids"][0].item() for i in range(40)]
                     for e in (0, 1))  # fmt: skip
    assert first != second
    assert sorted(first) == sorted(second)
    assert packed.sample(3)["input_ids"][0].item() == first[3]


def test_what_is_too_long_keeps_its_beginning_and_is_told(pack, caplog):
    with caplog.at_level(logging.WARNING):
        packed = pack([15], 10)
    assert packed.sample(0)["input_ids"].tolist() == list(range(10))
    assert "1 of 1 documents" in caplog.text


def test_a_store_without_an_answer_is_refused(make_store):
    store = make_store([4])
    store.answers = np.zeros(4, dtype="u1")
    with pytest.raises(UserError, match="holds no answer"):
        PackedConversations(store, 8, 0, PADDING)


def test_from_file_to_sample(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "w1 w2 w3 w4", "n": 5}\n')
    component = Component(str(path), prompt_chars_field="n")
    folder = tmp_path / "tokens"
    mixture = build_mixture({"a": component}, tokenizer, 8, 2, folder, 0, False, answers_only=True)
    sample = mixture[1]
    assert sample["input_ids"].tolist() == [1, 2, 3, 4, 101, 101, 101, 101]
    assert sample["labels"].tolist() == [-100, -100, 3, 4, 101, -100, -100, -100]
    assert sample["position_ids"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert sample["token_mask"].tolist() == [1] * 5 + [0] * 3
    assert TokenStore(folder / "a").answers.tolist() == [0, 0, 1, 1, 1]
    # The same text as running text needs another store.
    build_mixture({"a": component}, tokenizer, 4, 2, folder, 0, False)
    assert TokenStore(folder / "a").answers is None
    assert not (folder / "a" / "answers.bin").exists()
