# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from prosparse.data import windows as windows_module
from prosparse.data.documents import Document
from prosparse.data.sources import Source
from prosparse.data.windows import windows
from prosparse.errors import UserError


def test_windows_are_the_first_documents_in_file_order(write_jsonl, tokenizer):
    source = Source(write_jsonl("w1 w2", "w3", "w4 w5 w6", "w7"))
    found = windows(source, "wiki", tokenizer, context_length=3, num_tokens=8)
    assert found.dtype == torch.int64
    assert found.tolist() == [[1, 2, 101], [3, 101, 4]]


def test_every_window_begins_as_the_tokenizer_begins_a_text(write_jsonl, make_tokenizer):
    tokenizer = make_tokenizer(("<|endoftext|>", "<bos>"), bos_token="<bos>")
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    source = Source(write_jsonl("w1 w2", "w3", "w4 w5 w6"))
    found = windows(source, "wiki", tokenizer, context_length=3, num_tokens=9)
    assert found.tolist() == [[bos, 1, 2], [bos, 101, 3], [bos, 101, 4]]


@pytest.mark.parametrize(("num_tokens", "num_windows"), [(4, 1), (7, 1), (8, 2), (11, 2), (99, 2)])
def test_only_whole_windows_are_returned(write_jsonl, tokenizer, num_tokens, num_windows):
    source = Source(write_jsonl("w1 w2 w3 w4", "w5 w6 w7 w8 w9"))  # 11 tokens
    assert windows(source, "wiki", tokenizer, 4, num_tokens).shape == (num_windows, 4)


def test_reading_stops_when_there_is_enough(tokenizer, monkeypatch):
    read = []

    def endless(source, name, tokenizer):
        while True:
            read.append("w1 w2 w3")
            yield Document(read[-1])

    monkeypatch.setattr(windows_module, "documents", endless)
    monkeypatch.setattr("prosparse.data.tokens.BATCH_CHARACTERS", 16)
    assert windows(Source("some/data"), "wiki", tokenizer, 4, 20).shape == (5, 4)
    assert len(read) == 6


def test_too_little_data_says_how_much_there_is(write_jsonl, tokenizer):
    source = Source(write_jsonl("w1 w2"))
    with pytest.raises(UserError, match=r"'wiki': .* has 3 tokens, fewer than one window of 4"):
        windows(source, "wiki", tokenizer, 4, 100)


@pytest.mark.parametrize("num_tokens", [0, -1, 3])
def test_too_few_tokens_asked_for(write_jsonl, tokenizer, num_tokens):
    with pytest.raises(UserError) as caught:
        windows(Source(write_jsonl("w1")), "wiki", tokenizer, 4, num_tokens)
    assert str(caught.value) == (
        f"--tokens must be at least one window of 4 tokens; found {num_tokens}."
    )
