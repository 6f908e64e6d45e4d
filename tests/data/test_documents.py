# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from prosparse.data.documents import Document, documents
from prosparse.data.sources import Source
from prosparse.errors import UserError


@pytest.fixture
def read(tmp_path):
    """Read rows given as dicts, from a file, in the way that the fields of a Source say."""

    def read(*rows, tokenizer=None, **fields):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return list(documents(Source(str(path), **fields), "chat", tokenizer))

    return read


def answers(document: Document) -> list[str]:
    return [document.text[start:end] for start, end in document.answers]


def test_a_plain_text_tells_no_answer(read):
    assert read({"text": "one"}) == [Document("one")]


def test_the_rest_of_a_text_after_its_prompt_is_the_answer(read):
    (document,) = read({"text": "Q: 1+1? A: 2", "n": 11}, prompt_chars_field="n")
    assert answers(document) == ["2"]


@pytest.mark.parametrize("n", [-1, 4, 1.5, "3", None])
def test_a_prompt_that_is_no_part_of_the_text_is_refused(read, n):
    with pytest.raises(UserError, match=r"line 1, has a 'n' that is no number of characters"):
        read({"text": "abc", "n": n}, prompt_chars_field="n")


def test_templates_are_filled_with_fields_lists_and_objects(read):
    row = {"question": "1+1?", "set": ["two", "2"], "deep": [{"why": "sum"}]}
    prompt, answer = "Q: {question}\n", "{set[0]} ({deep[0][why]}) {{}}"
    (document,) = read(row, prompt=prompt, answer=answer)
    assert document.text == "Q: 1+1?\ntwo (sum) {}"
    assert answers(document) == ["two (sum) {}"]


@pytest.mark.parametrize("prompt", ["{questio}", "{set[5]}", "{question.x}"])
def test_a_template_that_a_row_does_not_fill_names_place_and_fields(read, prompt):
    with pytest.raises(UserError, match=r"'chat': .*line 1, does not fill .*: question, set\."):
        read({"question": "q", "set": []}, prompt=prompt, answer="a")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "{a}"}, "'prompt' and 'answer' go together"),
        ({"prompt": "{a", "answer": "b"}, "The template '{a' is broken"),
        (
            {"prompt": "a", "answer": "b", "messages_field": "m"},
            "prompt and answer with messages_field",
        ),
        ({"shuffle_buffer": -1}, "shuffle_buffer must be >= 0; found -1"),
    ],
)
def test_ways_to_read_a_row_that_do_not_go_together(fields, message):
    with pytest.raises(UserError, match=message):
        Source("x", **fields)
