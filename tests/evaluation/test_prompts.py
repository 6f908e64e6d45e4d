# SPDX-License-Identifier: Apache-2.0
"""What a model is asked: the paper's numbers of examples, and the answer nowhere before its place."""

import pytest

from prosparse.evaluation.harness import load_task
from prosparse.evaluation.suite import choose_tasks, load_suite

MARKS = {
    "gsm8k": "\nA: ",
    "mmlu": "Answer: ",
    "bbh": "So the answer is ",
    "mbpp": "[DONE]",
}


def prompt(name: str, data_dir) -> str:
    loaded = load_task(choose_tasks("paper", [name])[0], str(data_dir), None)
    return loaded.fewshot_context(loaded.eval_docs[0], 0)


def test_shots_are_the_paper_s():
    shots = {task.name: task.shots for task in load_suite().tasks}
    assert {name: shots[name] for name in ("humaneval", "mbpp", "gsm8k", "mmlu", "bbh", "agieval")} == {
        "humaneval": 0, "mbpp": 3, "gsm8k": 8, "mmlu": 5, "bbh": 3, "agieval": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("name", "num_shots"), [("gsm8k", 8), ("mmlu", 5), ("mbpp", 3)])
def test_the_prompt_has_the_examples(name, num_shots, data_dir):
    assert prompt(name, data_dir).count(MARKS[name]) == num_shots


def test_mmlu(data_dir):
    assert prompt("mmlu", data_dir) == (
        "The following are multiple choice questions (with answers) about astronomy.\n\n"
        + "".join(f"Old {n}?\nA. a\nB. b\nC. c\nD. d\nAnswer: C\n\n" for n in range(1, 6))
        + "Star 1?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    )


def test_mbpp(data_dir):
    task = "You are an expert Python programmer, and here is your task: {} Your code should pass these tests:\n\n{}\n[BEGIN]\n"
    examples = [
        task.format(f"Shot {n}.", "assert s(1) == 1") + "def s(x): return x\n[DONE]\n\n"
        for n in (2, 3, 4)  # the authors' first example is left out, as they did
    ]
    assert prompt("mbpp", data_dir) == "".join(examples) + task.format("Add 1.", "assert a(1) == 1")


def test_bbh_leaves_the_canary_out(data_dir):
    assert prompt("bbh", data_dir) == (
        "Tell.\n\nQ: 1?\nA: Let's think step by step.\nSo the answer is yes.\n\n"
        "Q: Is 1 odd?\nA: Let's think step by step.\n"
    )


def test_winogrande_scores_the_same_text_after_either_name(data_dir):
    loaded = load_task(choose_tasks("paper", ["winogrande"])[0], str(data_dir), None)
    doc = loaded.eval_docs[0]
    assert prompt("winogrande", data_dir) == [
        "Ann helped Bea since Ann",
        "Ann helped Bea since Bea",
    ]
    assert loaded.doc_to_target(doc) == "had 1 cats."


def test_copa_goes_on_from_the_premise(data_dir):
    loaded = load_task(choose_tasks("paper", ["copa"])[0], str(data_dir), None)
    assert prompt("copa", data_dir) == "It rained 1 days therefore"
    assert loaded.doc_to_choice(loaded.eval_docs[0]) == ["the street got wet.", "it was dry."]


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("gsm8k", " 2 + 2 is 4. The answer is $1,200.\n", "1,200."),
        ("gsm8k", " It is 4.", "[invalid]"),
        ("mmlu", " B", "B"),
        ("mmlu", " (C) or", "C"),
        ("mmlu", " Bees", "[invalid]"),
        ("bbh", "So the answer is (A).", "(A)"),
        ("bbh", "So the answer is a b. c.\nmore", "a b. c"),
        ("bbh", "I do not know", "[invalid]"),
    ],
)
def test_answers_are_found_in_what_was_written(name, text, answer, data_dir):
    loaded = load_task(choose_tasks("paper", [name])[0], str(data_dir), None)
    (step,) = loaded._filters
    loaded.build_all_requests(limit=1)
    loaded.instances[0].resps = [text]
    step.apply(loaded.instances)
    assert loaded.instances[0].filtered_resps[step.name] == answer


@pytest.mark.parametrize("answer", ["1,200", "1200", "1200.", "1200.00"])
def test_a_number_is_right_however_it_is_written(answer, data_dir):
    loaded = load_task(choose_tasks("paper", ["gsm8k"])[0], str(data_dir), None)
    item = {**loaded.eval_docs[0], "final": "1200"}
    assert loaded.process_results(item, [answer])["exact_match"] == 1
    assert loaded.process_results(item, ["1201"])["exact_match"] == 0


def test_any_of_several_answers_is_right(data_dir):
    loaded = load_task(choose_tasks("paper", ["nq_open"])[0], str(data_dir), None)
    item = loaded.eval_docs[0]
    assert [loaded.process_results(item, [a])["exact_match"] for a in ("Bea", "ann!", "Cy")] == [
        1,
        1,
        0,
    ]
