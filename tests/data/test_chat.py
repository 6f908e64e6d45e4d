# SPDX-License-Identifier: Apache-2.0
import pytest

from prosparse.data.chat import render_chat
from prosparse.errors import UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAST_ONLY = "{{ messages[-1]['content'] }}"
STRICT = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}"


@pytest.fixture
def chat(make_tokenizer):
    """Render a conversation; return its text and its answers as texts."""

    def chat(messages, template=CHATML):
        tokenizer = make_tokenizer()
        tokenizer.chat_template = template
        text, spans = render_chat(messages, tokenizer, "Row 1 has a conversation that")
        return text, [text[start:end] for start, end in spans]

    return chat


def says(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def test_each_answer_begins_where_a_model_would_and_ends_its_turn(chat):
    text, answers = chat(
        says(("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"),
             ("assistant", "d"))
    )  # fmt: skip
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na")
    assert answers == ["b<|im_end|>\n", "d<|im_end|>\n"]


def test_plain_texts_are_user_and_assistant_in_turn(chat):
    assert chat(["a", "b"]) == chat(says(("user", "a"), ("assistant", "b")))


def test_what_is_no_answer_is_none(chat):
    assert chat(says(("user", "a")))[1] == []


@pytest.mark.parametrize(
    ("messages", "template", "message"),
    [
        (says(("user", "a"), ("assistant", "b")), LAST_ONLY, "does not write turn by turn"),
        (says(("assistant", "b")), STRICT, "the chat template refuses: user first"),
        (["a", "b"], None, "needs a chat template"),
        ([], CHATML, r"is neither a list of texts nor of \{role, content\}: \[\]"),
        ("a", CHATML, "is neither"),
        ([{"role": "user"}], CHATML, "is neither"),
        ([{"role": "user", "content": None}], CHATML, "is neither"),
    ],
)
def test_what_cannot_be_a_conversation_is_one_sentence(chat, messages, template, message):
    with pytest.raises(UserError, match=rf"^Row 1 has a conversation that .*{message}"):
        chat(messages, template)
