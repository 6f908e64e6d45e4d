# SPDX-License-Identifier: Apache-2.0
import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from prosparse.data import tokens as tokens_module
from prosparse.data.mixture import Component
from prosparse.data.sources import Source
from prosparse.data.tokens import TokenStore, encode_documents, separator_id, tokenize
from prosparse.errors import UserError

SEPARATOR = 101


def test_a_store_holds_each_document_and_its_separator(write_jsonl, tokenizer, tmp_path):
    source = Source(write_jsonl("w1 w2 w3", "w4", "w5 nonsense"))
    store = tokenize(source, "prose", tokenizer, tmp_path / "store", progress=False)
    assert (store.num_documents, store.num_tokens) == (3, 9)
    expected = [[1, 2, 3, SEPARATOR], [4, SEPARATOR], [5, 100, SEPARATOR]]
    assert [store.document(i).tolist() for i in range(3)] == expected
    assert store.tokens.dtype == np.dtype("<u2")
    assert store.offsets.dtype == np.int64


def test_a_large_vocabulary_takes_four_bytes(write_jsonl, make_tokenizer, tmp_path):
    large = make_tokenizer(num_words=1 << 16)
    store = tokenize(Source(write_jsonl("w65535")), "prose", large, tmp_path / "store")
    assert store.tokens.dtype == np.dtype("<u4")
    assert store.document(0).tolist() == [65535, 65537]


def test_batches_do_not_show(write_jsonl, tokenizer, monkeypatch):
    texts = [f"w{i} w{i + 1}" for i in range(20)]
    whole = list(encode_documents(texts, tokenizer))
    monkeypatch.setattr(tokens_module, "BATCH_CHARACTERS", 15)
    assert list(encode_documents(iter(texts), tokenizer)) == whole
    assert whole[3] == [3, 4, SEPARATOR]


@pytest.mark.parametrize(("max_tokens", "num_documents"), [(1, 1), (3, 1), (4, 2), (99, 4)])
def test_max_tokens_keeps_whole_documents(
    write_jsonl, tokenizer, tmp_path, max_tokens, num_documents
):
    source = Source(write_jsonl(*["w1 w2"] * 4))
    store = tokenize(source, "prose", tokenizer, tmp_path / "store", max_tokens, progress=False)
    assert store.num_documents == num_documents
    assert store.num_tokens == 3 * num_documents


@pytest.fixture
def first(write_jsonl, tokenizer, tmp_path):
    """Return a source and the folder of its store, tokenized for the first time."""
    path = Path(write_jsonl())
    path.write_text('{"text": "w1", "body": "w1"}')
    source = Component(str(path), weight=1.0)
    tokenize(source, "prose", tokenizer, tmp_path / "store", progress=False)
    return source, tmp_path / "store"


def test_a_store_is_used_again(first, tokenizer):
    source, folder = first
    written = folder.stat().st_ino
    tokenizer("w1 w2", truncation=True, max_length=1)  # settings of a call change no token of ours
    source = dataclasses.replace(source, weight=2.0)  # nor does a weight
    store = tokenize(source, "another name", tokenizer, folder, progress=False)
    assert store.document(0).tolist() == [1, SEPARATOR]
    assert folder.stat().st_ino == written


@pytest.mark.parametrize("change", ["size", "mtime", "text_field", "max_tokens", "tokenizer"])
def test_a_store_of_something_else_is_replaced(first, tokenizer, make_tokenizer, change):
    source, folder = first
    written = folder.stat().st_ino
    max_tokens = 1 if change == "max_tokens" else None
    path = Path(source.path)
    if change == "size":
        path.write_text('{"text": "w1 w2"}')
    elif change == "mtime":
        os.utime(path, ns=(1, 1))
    elif change == "text_field":
        source = dataclasses.replace(source, text_field="body")
    elif change == "tokenizer":
        tokenizer = make_tokenizer()
    tokenize(source, "prose", tokenizer, folder, max_tokens, progress=False)
    assert folder.stat().st_ino != written
    assert sorted(p.name for p in folder.parent.iterdir()) == ["data.jsonl", "store"]


def test_a_tokenization_that_fails_leaves_nothing(write_jsonl, tokenizer, tmp_path):
    path, folder = Path(write_jsonl("w1")), tmp_path / "stores" / "prose"
    good = path.read_text()
    path.write_text(good + "broken\n")
    with pytest.raises(UserError, match="line 2, is not JSON"):
        tokenize(Source(str(path)), "prose", tokenizer, folder, progress=False)
    assert list(folder.parent.iterdir()) == []

    path.write_text(good)
    tokenize(Source(str(path)), "prose", tokenizer, folder, progress=False)
    path.write_text(good + "broken again\n")
    with pytest.raises(UserError, match="line 2, is not JSON"):
        tokenize(Source(str(path)), "prose", tokenizer, folder, progress=False)
    assert TokenStore(folder).document(0).tolist() == [1, SEPARATOR]
    assert [p.name for p in folder.parent.iterdir()] == ["prose"]


def test_a_folder_that_is_no_store_is_left_alone(write_jsonl, tokenizer, tmp_path):
    source = Source(write_jsonl("w1"))
    with pytest.raises(UserError, match="already exists"):
        tokenize(source, "prose", tokenizer, tmp_path, progress=False)
    assert (tmp_path / "data.jsonl").exists()
    with pytest.raises(UserError, match=r"is not a token store: it has no tokens\.bin"):
        TokenStore(tmp_path)


def test_a_worker_process_maps_the_files_itself(make_store):
    store = make_store([1000, 2000])
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    assert np.array_equal(pickle.loads(pickled).document(1), store.document(1))


def test_the_separator_is_endoftext_else_eos(make_tokenizer, tokenizer):
    assert separator_id(tokenizer) == SEPARATOR
    assert separator_id(make_tokenizer(("</s>",), eos_token="</s>")) == 101
    with pytest.raises(UserError, match=r"neither <\|endoftext\|> nor an eos token"):
        separator_id(make_tokenizer(()))
