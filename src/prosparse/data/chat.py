# SPDX-License-Identifier: Apache-2.0
"""Conversations as texts: the tokenizer's chat template, and where its answers stand in them."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

from prosparse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render_chat(
    messages: Any, tokenizer: PreTrainedTokenizerBase, where: str
) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of a conversation, and [start, end) in characters of each answer.

    An answer begins where the text ends that a model is given to answer, and ends where the text
    of the conversation up to it does: what ends a turn belongs to the answer, so that a model
    learns to stop.

    Args:
        messages: `{role, content}` objects, or plain texts of user and assistant in turn.
        tokenizer: Has the chat template.
        where: Beginning of a sentence, for messages.

    Raises:
        UserError: It is no conversation, there is no chat template, or the template refuses it or
            changes earlier turns when a later one is added.
    """
    turns = _turns(messages, where)

    def render(number: int, ask: bool = False) -> str:
        return _apply(tokenizer, turns[:number], ask, where)

    whole, answers = render(len(turns)), []
    for index, turn in enumerate(turns):
        if turn["role"] == "assistant":
            asked, answered = render(index, ask=True), render(index + 1)
            if not (answered.startswith(asked) and whole.startswith(answered)):
                raise UserError(
                    f"{where} the chat template does not write turn by turn, so its answers are "
                    "not known: give a tokenizer with another chat template."
                )
            answers.append((len(asked), len(answered)))
    return whole, answers


def _turns(messages: Any, where: str) -> list[dict[str, str]]:
    is_list = isinstance(messages, list) and bool(messages)
    if is_list and all(isinstance(message, str) for message in messages):
        roles = ("user", "assistant")
        return [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)]
    if is_list and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in messages
    ):
        return messages
    raise UserError(
        f"{where} is neither a list of texts nor of {{role, content}}: {reprlib.repr(messages)}."
    )


def _apply(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], ask: bool, where: str
) -> str:
    from jinja2 import TemplateError

    if not turns:
        return ""
    if tokenizer.chat_template is None:
        raise UserError(
            f"{where} needs a chat template, but the tokenizer {tokenizer.name_or_path} has none."
        )
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)
    except TemplateError as error:
        raise UserError(f"{where} the chat template refuses: {error}.") from None
    assert isinstance(text, str)
    return text
