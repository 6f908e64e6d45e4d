# SPDX-License-Identifier: Apache-2.0
"""What a row says: one text, and which parts of it are answers."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prosparse.data.chat import render_chat
from prosparse.data.sources import Source, rows
from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Document:
    """A text to learn from."""

    text: str
    answers: tuple[tuple[int, int], ...] = ()
    """[start, end) in characters of each answer; empty where the source does not tell."""


def documents(
    source: Source, name: str, tokenizer: PreTrainedTokenizerBase | None = None
) -> Iterator[Document]:
    """Yield the documents of `source` in order; empty ones are left out.

    Args:
        source: Local files or a hub data set.
        name: The data component's name, for messages.
        tokenizer: Its chat template makes texts of conversations; needed for these alone.

    Raises:
        UserError: Something is missing, broken or empty; names the component, the file and,
            where there is one, the line.
    """
    is_empty = True
    for where, row in rows(source, name):
        document = _document(source, row, where, tokenizer)
        if document.text:
            is_empty = False
            yield document
    if is_empty:
        raise UserError(f"Data component '{name}': {source.path} holds no text.")


def _document(
    source: Source, row: dict[str, Any], where: str, tokenizer: PreTrainedTokenizerBase | None
) -> Document:
    if source.messages_field is not None:
        assert tokenizer is not None
        messages = _field(row, source.messages_field, "messages_field", where)
        text, answers = render_chat(messages, tokenizer, f"{where} has a conversation that")
        return Document(_checked(text, source.messages_field, where), tuple(answers))
    if source.prompt is not None and source.answer is not None:
        prompt, answer = (_filled(t, row, where) for t in (source.prompt, source.answer))
        text = _checked(prompt + answer, "prompt or answer", where)
        return Document(text, ((len(prompt), len(text)),))
    text = _checked(_field(row, source.text_field, "text_field", where), source.text_field, where)
    if source.prompt_chars_field is None:
        return Document(text)
    prompt_chars = _field(row, source.prompt_chars_field, "prompt_chars_field", where)
    if not (isinstance(prompt_chars, int) and 0 <= prompt_chars <= len(text)):
        raise UserError(
            f"{where} has a '{source.prompt_chars_field}' that is no number of characters of its "
            f"text: {reprlib.repr(prompt_chars)}."
        )
    return Document(text, ((prompt_chars, len(text)),))


def _field(row: dict[str, Any], field: str, key: str, where: str) -> Any:
    if field not in row:
        found = ", ".join(map(str, row)) or "none"
        raise UserError(f"{where} lacks the field '{field}' ({key}); its fields: {found}.")
    return row[field]


def _filled(template: str, row: dict[str, Any], where: str) -> str:
    try:
        return template.format_map(row)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        found = ", ".join(map(str, row)) or "none"
        raise UserError(
            f"{where} does not fill the template {template!r} ({type(error).__name__}: {error}); "
            f"its fields: {found}."
        ) from None


def _checked(text: Any, field: str, where: str) -> str:
    if not isinstance(text, str):
        raise UserError(f"{where} has a '{field}' that is not a string: {reprlib.repr(text)}.")
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which no tokenizer takes
        raise UserError(f"{where} has a '{field}' that is not valid Unicode.") from None
    return text
