# SPDX-License-Identifier: Apache-2.0
"""Items of every task in the documented layout, few and short enough for a tiny model."""

import json
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from tests.conftest import byte_tokenizer, tiny_llama

LAYOUT = {
    "piqa.jsonl": {"goal": "To boil {n} eggs", "choices": ["heat water", "cool it {n}"], "label": 0},
    "siqa.jsonl": {
        "context": "Kim ran {n} miles.",
        "question": "Why?",
        "choices": ["to be fit", "to sleep", "no"],
        "label": 1,
    },
    "hellaswag.jsonl": {"context": "Dog {n} runs", "choices": ["off.", "up a tree.", "x.", "y {n}."], "label": 2},
    "winogrande.jsonl": {"sentence": "Ann helped Bea since _ had {n} cats.", "choices": ["Ann", "Bea"], "label": 1},
    "copa.jsonl": {
        "premise": "It rained {n} days.",
        "question": "effect",
        "choices": ["The street got wet.", "It was dry."],
        "label": 0,
    },
    "boolq.jsonl": {"passage": "There are {n} moons.", "question": "are there moons", "label": 1},
    "lambada.jsonl": {"text": "One and {n} makes more than just one"},
    "tydiqa.jsonl": {"passage": "Ulm has {n} gates.", "question": "How many gates?", "answers": ["{n}"]},
    "gsm8k.jsonl": {"question": "What is {n} + 1?", "answer": "#### 2", "final": "2"},
    "mmlu.jsonl": {"subset": "astronomy", "question": "Star {n}?", "choices": ["a", "b", "c", "d"], "label": 3},
    "mmlu_dev5.jsonl": {"subset": "astronomy", "question": "Old {n}?", "choices": ["a", "b", "c", "d"], "label": 2},
    "bbh.jsonl": {"subset": "snarks", "input": "Is {n} odd?", "target": "yes"},
    "bbh_cot_prompts.jsonl": {"subset": "snarks", "prompt": "canary\n-----\nTell.\n\nQ: 1?\nA: Let's think step by step.\nSo the answer is yes."},
    "agieval_en.jsonl": {"subset": "lsat-ar", "passage": "", "question": "Which {n}?", "choices": ["one", "two more"], "label": 0},
    "humaneval.jsonl": {
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "test": "def check(f):\n    assert f(1) == {n}",
    },
    "mbpp.jsonl": {
        "text": "Add {n}.",
        "code": "def a(x): return x",
        "test_setup_code": "",
        "test_list": ["assert a(1) == {n}"],
    },
    "mbpp_fewshot_prompt.jsonl": {
        "text": "Shot {n}.",
        "code": "def s(x): return x",
        "test_setup_code": "",
        "test_list": ["assert s(1) == 1"],
    },
    "nq_open.jsonl": {"question": "who came in {n}", "answers": ["Ann", "Bea"]},
    "wikitext2_valid.jsonl": {"text": " = Ulm = \n Ulm has {n} gates . "},
}  # fmt: skip
NUM_ITEMS = 5


def filled(value, number: int):
    """Return a layout with its `{n}` filled in."""
    if isinstance(value, str):
        return value.replace("{n}", str(number))
    if isinstance(value, list):
        return [filled(item, number) for item in value]
    return value


def write_items(folder: Path, names=tuple(LAYOUT)) -> Path:
    """Write a file of items for each name; return the folder."""
    folder.mkdir(exist_ok=True)
    for name in names:
        rows = (
            {"id": f"{name}/{n}", **{field: filled(value, n) for field, value in LAYOUT[name].items()}}
            for n in range(1, NUM_ITEMS + 1)
        )  # fmt: skip
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Local items of every task; do not write into it."""
    return write_items(tmp_path_factory.mktemp("items") / "eval")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A ReLU checkpoint with room for prompts of thousands of bytes; do not write into it."""
    folder = tmp_path_factory.mktemp("model") / "relu"
    tiny_llama(hidden_act="relu", max_position_embeddings=4096).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of this test alone, also where none is named."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prosparse" / "evaluation"
