# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from prosparse.errors import UserError
from prosparse.evaluation.answer_cache import (
    AnswerFile,
    Chunk,
    default_cache,
    find_answers,
    open_answers,
    requests_key,
)

HERE = {"task": "piqa", "device": "a CPU", "dtype": "float32", "versions": {"torch": "2.13.0"}}


def test_chunks_come_back_to_the_last_bit(tmp_path):
    chunk = Chunk([[-0.1 - 1e-17, True], [float("-inf"), False]], 1.5, [3, 4], 7, 1, 2)
    AnswerFile(tmp_path / "new" / "a.jsonl", HERE).add("key", chunk)
    again = AnswerFile(tmp_path / "new" / "a.jsonl", HERE)
    assert again.get("key") == chunk
    assert again.get("other") is None


@pytest.mark.parametrize("lost", [1, 20, 60])
def test_a_line_cut_short_is_asked_again_and_spoils_nothing(tmp_path, lost):
    path = tmp_path / "a.jsonl"
    file = AnswerFile(path, HERE)
    file.add("first", Chunk(["a"]))
    file.add("second", Chunk(["b"]))
    path.write_bytes(path.read_bytes()[: -lost - 1])
    again = AnswerFile(path, HERE)
    assert again.get("first") == Chunk(["a"])
    assert again.get("second") in (None, Chunk(["b"]))
    again.add("second", Chunk(["b"]))
    assert AnswerFile(path, HERE).get("second") == Chunk(["b"])
    assert AnswerFile(path, HERE).get("first") == Chunk(["a"])


def test_circumstances_cut_short_are_told_again(tmp_path):
    open_answers(tmp_path, "piqa", HERE).add("first", Chunk(["a"]))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="no sets"):
        find_answers(tmp_path, "piqa", HERE)
    again = open_answers(tmp_path, "piqa", HERE)
    again.add("first", Chunk(["a"]))
    again.add("second", Chunk(["b"]))
    assert find_answers(tmp_path, "piqa", HERE).get("second") == Chunk(["b"])
    assert path.read_text().count('"circumstances"') == 2  # the cut one, and one more
    assert find_answers(tmp_path, "piqa", HERE).get("first") == Chunk(["a"])


def test_a_line_of_something_else_is_no_answer(tmp_path):
    (tmp_path / "a.jsonl").write_text('7\n{"requests": "k", "unknown": 1}\nnull\n')
    assert AnswerFile(tmp_path / "a.jsonl", HERE).get("k") is None


def test_answers_of_another_machine_are_found_by_what_they_say_of_it(tmp_path):
    there = {**HERE, "device": "a GPU", "versions": {"torch": "2.11.0"}}
    with pytest.raises(UserError, match="no sets of answers to piqa"):
        find_answers(tmp_path, "piqa", HERE)
    open_answers(tmp_path, "piqa", there).add("key", Chunk(["a"]))
    open_answers(tmp_path, "piqa", {**there, "dtype": "bfloat16"}).add("key", Chunk(["b"]))
    found = find_answers(tmp_path, "piqa", HERE)
    assert found.get("key") == Chunk(["a"])
    assert found.circumstances == there
    assert open_answers(tmp_path, "piqa", HERE).get("key") is None
    open_answers(tmp_path, "piqa", HERE).add("key", Chunk(["c"]))
    with pytest.raises(UserError, match="2 sets of answers to piqa"):
        find_answers(tmp_path, "piqa", HERE)


def test_a_key_is_of_everything_asked():
    asked = [("ctx", " a"), ("ctx", " b")]
    keys = {
        requests_key("loglikelihood", asked),
        requests_key("loglikelihood", asked[::-1]),
        requests_key("generate_until", asked),
        requests_key("loglikelihood", [("ctx", " a")]),
    }
    assert len(keys) == 4


def test_the_user_s_cache_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/prosparse/evaluation")
