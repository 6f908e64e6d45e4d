# SPDX-License-Identifier: Apache-2.0
"""A tokenizer of a hundred words, and token stores and files made to order."""

import json
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from prosparse.data.tokens import TokenStore

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
MakeStore = Callable[[Sequence[int]], TokenStore]


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    """Return a tokenizer whose words are w0, w1, ...; `wN` has id N."""

    def make(special: Sequence[str] = ("<|endoftext|>",), num_words: int = 100, **settings):
        words = [f"w{i}" for i in range(num_words)] + ["[UNK]", *special]
        model = WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
        backend = Tokenizer(model)
        backend.pre_tokenizer = Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **settings)

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: MakeTokenizer) -> PreTrainedTokenizerFast:
    """The separator is id 101; the eos token, 102, is another."""
    return make_tokenizer(("<|endoftext|>", "<eos>"), eos_token="<eos>")


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> MakeStore:
    """Return a store of documents of the given lengths; token k of the store is the number k."""
    parent, numbers = tmp_path_factory.mktemp("stores"), count()

    def make(lengths: Sequence[int]) -> TokenStore:
        folder = parent / str(next(numbers))
        folder.mkdir()
        offsets = np.cumsum([0, *lengths])
        np.arange(offsets[-1], dtype="<u4").tofile(folder / "tokens.bin")
        np.save(folder / "offsets.npy", offsets)
        (folder / "meta.json").write_text('{"dtype": "<u4", "fingerprint": {}}')
        return TokenStore(folder)

    return make


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., str]:
    """Write texts as JSON lines, return the path."""

    def write(*texts: str, name: str = "data.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return str(path)

    return write
