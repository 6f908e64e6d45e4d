# SPDX-License-Identifier: Apache-2.0
"""Documents as token ids on disk, tokenized once and memory-mapped ever after.

A token store is a folder of these files:

    tokens.bin    every document's token ids and a separator after each, laid end to end
    answers.bin   only where answers are told: for each token 1 if it is an answer's, else 0
    offsets.npy   int64 [num_documents + 1]: where each document starts, and the end of the last
    meta.json     the dtype of tokens.bin, and the fingerprint of what the tokens were made from

A store is written under a temporary name and renamed when whole. One whose fingerprint still holds
is used as it is, so a run that starts again starts at once.
"""

from __future__ import annotations

import array
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from prosparse.data.documents import Document, documents
from prosparse.data.fingerprint import fingerprint
from prosparse.errors import UserError
from prosparse.records.files import whole_folder
from prosparse.records.lock import alone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from prosparse.data.sources import Source

TOKENS_NAME = "tokens.bin"
ANSWERS_NAME = "answers.bin"
OFFSETS_NAME = "offsets.npy"
META_NAME = "meta.json"
SEPARATOR = "<|endoftext|>"
BATCH_CHARACTERS = 1_000_000
"""Texts tokenized in one call: enough to keep every core busy, little enough to stay small."""


class TokenStore:
    """A folder of tokenized documents, mapped into memory.

    Args:
        folder: What `tokenize` wrote.

    Raises:
        UserError: The folder is not a token store.
    """

    def __init__(self, folder: Path) -> None:
        if not _is_store(folder):
            raise UserError(f"{folder} is not a token store: it has no {TOKENS_NAME}.")
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / META_NAME).read_text(encoding="utf-8"))
        self.tokens = np.memmap(folder / TOKENS_NAME, dtype=self.meta["dtype"], mode="r")
        """[num_tokens], uint16 or uint32."""
        self.offsets = np.load(folder / OFFSETS_NAME, mmap_mode="r")
        """[num_documents + 1], int64, rising from 0 to num_tokens."""
        self.answers: np.ndarray | None = None
        """[num_tokens], uint8, 1 where a token is an answer's; None where nothing tells."""
        if self.meta["fingerprint"].get("answers"):
            self.answers = np.memmap(folder / ANSWERS_NAME, dtype="u1", mode="r")

    def __reduce__(self) -> tuple[type[TokenStore], tuple[Path]]:
        # A data loader's worker process maps the files itself: pickling would copy every token.
        return TokenStore, (self.folder,)

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, separators included."""
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        """Documents in the store."""
        return len(self.offsets) - 1

    def document(self, index: int) -> np.ndarray:
        """Return the tokens [length] of a document, its separator last, in the dtype on disk."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def tokenize(
    source: Source,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    max_tokens: int | None = None,
    progress: bool = True,
    answers: bool = False,
    is_shared: bool = False,
) -> TokenStore:
    """Return the token store of `source` at `folder`, written now unless it is there already.

    Of several processes that need it one writes it; the others wait, and find it.

    Args:
        source: The documents.
        name: The data component's name, for messages and the progress bar.
        tokenizer: Any transformers tokenizer; fast ones are many times faster.
        folder: Where the store is, or will be. A store made from anything else is replaced, unless
            it is shared.
        max_tokens: Stop after the document that reaches this many tokens; None takes all.
        progress: Whether to show a progress bar.
        answers: Whether to write down which tokens are an answer's; the source must tell.
        is_shared: Whether other runs may be reading the store.

    Raises:
        UserError: The source cannot be read or holds no text, `folder` is something else than a
            token store or a shared one of other text, or the tokenizer has no separator.
    """
    made_from = fingerprint(source, name, tokenizer, separator_id(tokenizer), max_tokens, answers)
    if _is_store_of(folder, made_from):
        return TokenStore(folder)
    with alone(folder, wait=True):
        if not _is_store_of(folder, made_from):
            if is_shared and _is_store(folder):
                raise UserError(
                    f"The token store {folder} was made from other text or with another tokenizer, and "
                    "other runs may be reading it: choose another token_store."
                )
            _write_store(source, name, tokenizer, folder, max_tokens, progress, answers, made_from)
    return TokenStore(folder)


def _write_store(
    source: Source,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    max_tokens: int | None,
    progress: bool,
    answers: bool,
    made_from: dict[str, Any],
) -> None:
    dtype = np.dtype(f"<u{bytes_per_token(len(tokenizer))}")
    meta = {"dtype": dtype.str, "fingerprint": made_from}
    bar = tqdm(
        desc=f"tokenizing {name}",
        total=max_tokens,
        unit=" tokens",
        unit_scale=True,
        disable=not progress,
    )
    with bar, whole_folder(folder, overwrite=_is_store(folder)) as unfinished:
        found = documents(source, name, tokenizer)
        if answers:
            _write_tokens(unfinished, encode_answers(found, tokenizer), dtype, max_tokens, bar)
        else:
            texts = (document.text for document in found)
            encoded = ((tokens, None) for tokens in encode_documents(texts, tokenizer))
            _write_tokens(unfinished, encoded, dtype, max_tokens, bar)
        (unfinished / META_NAME).write_text(json.dumps(meta, indent=1), encoding="utf-8")


def bytes_per_token(vocabulary: int) -> int:
    """Return what a token takes on disk."""
    return 2 if vocabulary <= 1 << 16 else 4


def _write_tokens(
    folder: Path,
    encoded: Iterable[tuple[list[int], list[bool] | None]],
    dtype: np.dtype,
    max_tokens: int | None,
    bar: tqdm,
) -> None:
    """Write `tokens.bin`, `offsets.npy` and, where marks come with tokens, `answers.bin`."""
    offsets = array.array("q", [0])
    with (folder / TOKENS_NAME).open("wb") as file, (folder / ANSWERS_NAME).open("wb") as marks:
        for tokens, is_answer in encoded:
            np.asarray(tokens, dtype=dtype).tofile(file)
            if is_answer is not None:
                np.asarray(is_answer, dtype="u1").tofile(marks)
            offsets.append(offsets[-1] + len(tokens))
            bar.update(len(tokens))
            if max_tokens is not None and offsets[-1] >= max_tokens:
                break
    if (folder / ANSWERS_NAME).stat().st_size == 0:  # nothing was told
        (folder / ANSWERS_NAME).unlink()
    np.save(folder / OFFSETS_NAME, np.asarray(offsets, dtype=np.int64))


def encode_documents(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[int]]:
    """Yield each text's token ids followed by the separator, reading `texts` as needed.

    No other special token is added: a model's template is the business of whoever wrote the text.
    """
    separator = separator_id(tokenizer)
    for batch in _batches(texts):
        # verbose would warn of documents longer than the context, which packing is there for
        encoded = tokenizer(
            batch, add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        for tokens in encoded["input_ids"]:
            tokens.append(separator)
            yield tokens


def encode_answers(
    found: Iterable[Document], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield each document's token ids with its separator, and which of them are an answer's.

    A token is an answer's when it ends inside the answer. The separator after an answer is too:
    it is what tells a model without a chat template to stop.

    Raises:
        UserError: The tokenizer cannot say where its tokens stand in the text.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer {tokenizer.name_or_path} does not say where its tokens stand in a "
            "text, which telling answers from prompts needs: give a fast tokenizer."
        )
    separator = separator_id(tokenizer)
    for document in found:
        encoded = tokenizer(
            document.text,
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        is_answer = [
            any(start < end <= stop for start, stop in document.answers)
            for _, end in encoded["offset_mapping"]
        ]
        ends_in_answer = any(stop == len(document.text) for _, stop in document.answers)
        yield [*encoded["input_ids"], separator], [*is_answer, ends_in_answer]


def separator_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token that ends a document: `<|endoftext|>`, else the eos token.

    `<|endoftext|>` goes first because a chat model's eos ends a turn, not a document.

    Raises:
        UserError: The tokenizer has neither.
    """
    separator = tokenizer.get_vocab().get(SEPARATOR, tokenizer.eos_token_id)
    if separator is None:
        raise UserError(
            f"The tokenizer {tokenizer.name_or_path} has neither {SEPARATOR} nor an eos token to "
            "separate documents: set tokenizer.eos_token."
        )
    return separator


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _is_store(folder: Path) -> bool:
    return (folder / TOKENS_NAME).is_file()


def _is_store_of(folder: Path, made_from: dict[str, Any]) -> bool:
    return _is_store(folder) and TokenStore(folder).meta["fingerprint"] == made_from
