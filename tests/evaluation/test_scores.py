# SPDX-License-Identifier: Apache-2.0
import math

import pytest

from prosparse.evaluation.answer_cache import Chunk
from prosparse.evaluation.harness import Item
from prosparse.evaluation.scores import averages, pooled_sparsity, sparsity, task_score
from prosparse.evaluation.suite import choose_tasks, load_suite
from prosparse.records.evaluation import TaskScore

# ProSparse: Table 3 with the last columns of Table 1, then all of Table 1, in percent.
TABLE_3 = {
    "LLaMA2-7B": (10.98, 21.77, 78.40, 47.70, 75.67, 67.17, 79.00, 75.99, 72.81, 36.82, 12.96, 44.45, 32.96, 27.53),
    "ProSparse-7B": (16.46, 22.38, 75.68, 43.55, 71.09, 64.01, 77.00, 62.51, 68.21, 59.77, 12.13, 45.48, 34.99, 27.46),
    "MiniCPM-1B": (41.46, 32.24, 74.10, 48.87, 67.27, 59.12, 69.00, 69.30, 58.18, 55.23, 35.48, 50.44, 35.03, 28.71),
}  # fmt: skip
TABLE_1 = {
    "LLaMA2-7B": (16.37, 69.59, 61.87, 12.96, 44.45, 32.96, 27.53, 37.96),
    "ProSparse-7B": (19.42, 66.27, 63.50, 12.13, 45.48, 34.99, 27.46, 38.46),
    "MiniCPM-1B": (36.85, 63.67, 60.90, 35.48, 50.44, 35.03, 28.71, 44.44),
}
PAPER_TASKS = (
    "humaneval", "mbpp", "piqa", "siqa", "hellaswag", "winogrande", "copa", "boolq", "lambada", "tydiqa",
    "gsm8k", "mmlu", "bbh", "agieval",
)  # fmt: skip


def score(task: str, value: float, stderr: float = 0.0, **changes) -> TaskScore:
    settings = {
        "task": task, "title": task, "version": "1", "metric": "acc", "answers": "ranked", "num_shots": 0,
        "num_items": 10, "source": "", "score": value, "stderr": stderr, "other_metrics": {},
        "sparsity": None, "num_tokens": 0, "num_unended": 0, "num_cut_prompts": 0, "seconds": 1.0,
    }  # fmt: skip
    return TaskScore(**{**settings, **changes})


@pytest.mark.parametrize("model", TABLE_1)
def test_averages_are_those_of_table_1(model):
    scores = [
        score(task, value / 100) for task, value in zip(PAPER_TASKS, TABLE_3[model], strict=True)
    ]
    columns, overall = averages(load_suite().columns, scores, what_is_there=False)
    found = [100 * mean.score for mean in (*columns, overall)]
    assert found == pytest.approx(TABLE_1[model], abs=0.0151)  # both tables are rounded


def test_nothing_is_averaged_over_missing_tasks():
    scores = [score("piqa", 0.6), score("gsm8k", 0.1)]
    columns, overall = averages(load_suite().columns, scores, what_is_there=False)
    by_name = {mean.name: mean for mean in columns}
    assert by_name["Commonsense Reasoning"].score is None
    assert by_name["Commonsense Reasoning"].missing == ("siqa", "hellaswag", "winogrande", "copa")
    assert by_name["GSM8K"].score == 0.1
    assert overall.score is None
    assert "MMLU" in overall.missing


def test_what_is_there_is_averaged_when_asked_for():
    scores = [score("piqa", 0.6, 0.03), score("siqa", 0.4, 0.04), score("gsm8k", 0.1, 0.05)]
    columns, overall = averages(load_suite().columns, scores, what_is_there=True)
    by_name = {mean.name: mean for mean in columns}
    assert by_name["Commonsense Reasoning"].score == pytest.approx(0.5)
    assert by_name["Commonsense Reasoning"].stderr == pytest.approx(0.025)
    assert by_name["MMLU"].score is None
    assert overall.score == pytest.approx(0.3)
    assert overall.stderr == pytest.approx(math.hypot(0.025, 0.05) / 2)
    assert "MMLU" in overall.missing


def test_others_stand_beside_the_averages():
    listed = {name for column in load_suite().columns for name in column.tasks}
    assert {task.name for task in load_suite().tasks} - listed == {"nq_open", "wikitext2"}
    assert listed == set(PAPER_TASKS)


def items(*values: float) -> list[Item]:
    return [
        Item(str(n), value, 1.0, {"id": str(n), "acc": value}) for n, value in enumerate(values)
    ]


def test_a_score_and_its_error_by_hand():
    task = choose_tasks("paper", ["copa"])[0]
    chunks = [Chunk([], 2.0, [3, 1], 4, 1, 0), Chunk([], 1.0, [5, 3], 2, 0, 2)]
    found = task_score(task, "1", "hub", items(1, 0, 1, 1), chunks, d_ff=4)
    assert found.score == 0.75
    assert found.stderr == pytest.approx(0.5 / 2)  # sd of 1, 0, 1, 1 is 0.5
    assert found.sparsity == pytest.approx(1 - 12 / (6 * 2 * 4))
    assert (found.num_tokens, found.num_unended, found.num_cut_prompts, found.seconds) == (
        6,
        1,
        2,
        3.0,
    )
    assert found.other_metrics == {"acc": 0.75}  # what counts is acc_norm


def test_one_item_has_no_error():
    task = choose_tasks("paper", ["copa"])[0]
    assert math.isnan(task_score(task, "1", "hub", items(1), [], 4).stderr)


def test_a_perplexity_by_hand():
    task = choose_tasks("paper", ["wikitext2"])[0]
    told = [Item("a", -6.0, 2.0, {}), Item("b", -3.0, 1.0, {})]
    found = task_score(task, "1", "hub", told, [], 4)
    assert found.score == pytest.approx(math.exp(3))
    assert found.stderr == pytest.approx(0)  # both documents have 3 nats a word
    assert found.sparsity is None


def test_sparsity_is_pooled_by_tokens():
    tasks = [
        score("piqa", 0.5, sparsity=0.9, num_tokens=100),
        score("siqa", 0.5, sparsity=0.5, num_tokens=300),
        score("copa", 0.5),
    ]
    assert pooled_sparsity(tasks) == pytest.approx(0.6)
    assert pooled_sparsity(tasks[2:]) is None
    assert sparsity([Chunk([], 0.0, [0, 0], 7)], 4) == 1.0
