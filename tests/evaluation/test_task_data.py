# SPDX-License-Identifier: Apache-2.0
import json
import lzma

import pytest
import yaml

from prosparse.evaluation.harness import load_task
from prosparse.evaluation.suite import TASKS_FOLDER, choose_tasks, load_suite
from prosparse.evaluation.task_data import MissingData, _expression, sample, task_data
from tests.evaluation.conftest import write_items

HUB = {"path": "nobody/nothing", "split": "test", "fields": {"id": "row"}}

# A row as each data set on the hub has it, and what it is in our layout.
HUB_ROWS = {
    "piqa": (
        {"goal": "g", "sol1": "a", "sol2": "b", "label": 1},
        {"goal": "g", "choices": ["a", "b"], "label": 1},
    ),
    "siqa": (
        {"context": "c", "question": "q", "answerA": "1", "answerB": "2", "answerC": "3", "label": "3"},
        {"context": "c", "question": "q", "choices": ["1", "2", "3"], "label": 2},
    ),
    "hellaswag": (
        {"ind": 7, "activity_label": "Cook", "ctx": "Heat. [header] Stir", "label": "2",
         "endings": ["on [step] it.", "b", "c", "d"]},
        {"id": 7, "context": "Cook: Heat. Stir", "choices": ["on it.", "b", "c", "d"], "label": 2},
    ),
    "winogrande": (
        {"sentence": "x _ y", "option1": "A", "option2": "B", "answer": "2"},
        {"sentence": "x _ y", "choices": ["A", "B"], "label": 1},
    ),
    "copa": (
        {"idx": 3, "premise": "p", "question": "cause", "choice1": "a", "choice2": "b", "label": 0},
        {"id": 3, "premise": "p", "question": "cause", "choices": ["a", "b"], "label": 0},
    ),
    "boolq": (
        {"idx": 3, "passage": "p", "question": "q", "label": 1},
        {"id": 3, "passage": "p", "question": "q", "label": 1},
    ),
    "lambada": ({"text": "t"}, {"text": "t"}),
    "tydiqa": (
        {"id": "english-1", "context": "c", "question": "q", "answers": {"text": ["a"]}},
        {"id": "english-1", "passage": "c", "question": "q", "answers": ["a"]},
    ),
    "gsm8k": (
        {"question": "q", "answer": "so\n#### 1,200"},
        {"question": "q", "answer": "so\n#### 1,200", "final": "1,200"},
    ),
    "mmlu": (
        {"subject": "law", "question": "q", "choices": list("abcd"), "answer": 3},
        {"id": "law/5", "subset": "law", "question": "q", "choices": list("abcd"), "label": 3},
    ),
    "bbh": (
        {"subset": "snarks", "input": "i", "target": "t"},
        {"id": "snarks/5", "subset": "snarks", "input": "i", "target": "t"},
    ),
    "agieval": (
        {"subset": "lsat-ar", "query": "Q: Who? Answer Choices: (A)x (B)y\nA: the answer is",
         "choices": ["(A)x", "(B) y"], "gold": [1]},
        {"id": "lsat-ar/5", "subset": "lsat-ar", "passage": "", "question": "Who?",
         "choices": ["x", "y"], "label": 1},
    ),
    "humaneval": (
        {"task_id": "HumanEval/0", "prompt": "p", "entry_point": "f", "test": "t"},
        {"id": "HumanEval/0", "prompt": "p", "entry_point": "f", "test": "t"},
    ),
    "mbpp": (
        {"task_id": 11, "text": "t", "code": "c", "test_setup_code": "", "test_list": ["a"]},
        {"id": 11, "text": "t", "code": "c", "test_setup_code": "", "test_list": ["a"]},
    ),
    "nq_open": ({"question": "q", "answer": ["a"]}, {"question": "q", "answers": ["a"]}),
    "wikitext2": ({"page": "p"}, {"text": "p"}),
}  # fmt: skip


def task(name: str):
    return choose_tasks("paper", [name])[0]


def settings(name: str) -> dict:
    text = (TASKS_FOLDER / f"{name}.yaml").read_text()
    config = yaml.safe_load(text.replace("!function ", ""))
    return config["dataset_kwargs"]


@pytest.mark.parametrize("name", [task.name for task in load_suite().tasks])
def test_a_row_of_the_hub_becomes_our_layout(name):
    row, wanted = HUB_ROWS[name]
    found = {
        field: _expression(text)(**row, row=5)
        for field, text in settings(name)["hub"]["fields"].items()
    }
    assert {"id": 5, **wanted} == found


def test_tydiqa_takes_english_alone():
    is_wanted = _expression(settings("tydiqa")["hub"]["only"])
    assert is_wanted(id="english--7")
    assert not is_wanted(id="korean--7")


def test_files_may_be_packed(tmp_path):
    with lzma.open(tmp_path / "a.jsonl.xz", "wt") as file:
        file.write('{"id": 1, "text": "a"}\n')
    data = task_data(file="a.jsonl", hub=HUB, data_dir=str(tmp_path))
    assert list(data["test"]) == [{"id": 1, "text": "a"}]


def test_missing_data_says_which_file_and_where(tmp_path):
    with pytest.raises(MissingData, match=r"no a\.jsonl .* in "):
        task_data(file="a.jsonl", hub=HUB, data_dir=str(tmp_path))


def test_a_hub_out_of_reach_says_that_local_copies_do(monkeypatch):
    with pytest.raises(MissingData, match=r"nobody/nothing.*--data-dir"):
        task_data(file="a.jsonl", hub=HUB)


def test_a_missing_field_is_named(tmp_path):
    (tmp_path / "piqa.jsonl").write_text(json.dumps({"id": 1, "choices": ["a", "b"], "label": 0}))
    with pytest.raises(MissingData, match=r"piqa\.jsonl.* line 1, lacks the field 'goal'"):
        load_task(task("piqa"), str(tmp_path), None)


def test_a_sample_is_the_same_in_any_order_and_grows():
    items = [{"id": n} for n in range(100)]
    few, more = sample(items, 10), sample(items, 20)
    assert len(few) == 10
    assert sample(items[::-1], 10) == few[::-1]
    assert [item for item in more if item in few] == few
    assert few != items[:10]


def test_examples_are_those_of_the_item_s_own_subset(tmp_path):
    items = [{"id": n, "subset": subset} for n, subset in enumerate("ab")]
    shots = [{"subset": subset, "n": n} for subset in "ab" for n in range(3)]
    for name, rows in (("i.jsonl", items), ("s.jsonl", shots)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = task_data(
        file="i.jsonl", hub=HUB, shots={"file": "s.jsonl", "by": "subset"},
        data_dir=str(tmp_path), num_shots=2,
    )  # fmt: skip
    assert [item["shots"] for item in data["test"]] == [
        [{"subset": subset, "n": n} for n in range(2)] for subset in "ab"
    ]


def test_too_few_examples_are_no_fewer_shots(tmp_path):
    folder = write_items(tmp_path / "eval", ["mmlu.jsonl"])
    (folder / "mmlu_dev5.jsonl").write_text('{"id": 1, "subset": "law", "question": "q"}\n')
    with pytest.raises(MissingData, match=r"0 examples for item .*, not 5"):
        load_task(task("mmlu"), str(folder), None)


def test_gsm8k_has_the_eight_examples_and_each_reaches_its_answer():
    examples = settings("gsm8k")["shots"]["examples"]
    assert [example["answer"].split("The answer is ")[1] for example in examples] == [
        "6.", "5.", "39.", "8.", "9.", "29.", "33.", "8.",
    ]  # fmt: skip


def test_the_hub_s_bbh_has_the_prompts_that_lm_eval_brings():
    from prosparse.evaluation.task_data import _harness_prompts

    hub = settings("bbh")["hub"]
    prompts = {
        row["subset"]: row["prompt"] for row in _harness_prompts(hub["prompts"], hub["subsets"])
    }
    assert len(prompts) == 27
    assert all(prompt.count("Let's think step by step.") == 3 for prompt in prompts.values())
    assert prompts["snarks"].endswith("So the answer is (A).")
