# SPDX-License-Identifier: Apache-2.0
"""The page of an evaluation says the paper's tables, what is missing, and what is known of differences."""

import dataclasses

import pytest

import prosparse as ps
from prosparse.records.evaluation import (
    NOT_CHOSEN,
    ChangedAnswer,
    Column,
    EvaluationRecord,
    MissingTask,
    ModelScores,
    PairedDifference,
    TaskScore,
    average,
)
from prosparse.records.files import write_record
from prosparse.records.sparsity import Activation
from prosparse.reporting.evaluation_grids import column_grid, sparsity_grid, task_grid
from prosparse.reporting.evaluation_sections import latex_tables
from prosparse.reporting.page import run_page
from prosparse.reporting.summary import headline
from tests.reporting.conftest import PROVENANCE

COLUMNS = (Column("Commonsense Reasoning", ("piqa", "copa")), Column("GSM8K", ("gsm8k",)))


def score(task, value, sparsity=0.8, **changes) -> TaskScore:
    settings = {
        "task": task, "title": task.upper(), "version": "1.0", "metric": "acc", "answers": "ranked",
        "num_shots": 0, "num_items": 100, "source": "items", "score": value, "stderr": 0.05,
        "other_metrics": {}, "sparsity": sparsity, "num_tokens": 1000, "num_unended": 0,
        "num_cut_prompts": 0, "seconds": 3.0,
    }  # fmt: skip
    return TaskScore(**{**settings, **changes})


def model(name, values, *, sparsity=0.8, backend="dense", hash="a", whole=False) -> ModelScores:
    tasks = tuple(score(task, value, sparsity) for task, value in values.items())
    found = {task.task: (task.score, task.stderr) for task in tasks}
    means = tuple(
        average(c.name, [(t, *found.get(t, (None, None))) for t in c.tasks], whole) for c in COLUMNS
    )
    overall = average("Average", [(m.name, m.score, m.stderr) for m in means], whole)
    return ModelScores(
        name=name, model=f"runs/{name}", backend=backend, hash=hash, activation=Activation("relu"),
        dtype="float32", batch_size=1, tasks=tasks, columns=means, overall=overall, sparsity=sparsity,
    )  # fmt: skip


def record(*models: ModelScores, **changes) -> EvaluationRecord:
    settings = {
        "model": models[0].model, "suite": "quick", "is_chat": False, "models": models,
        "columns": COLUMNS, "missing": (), "averages_what_is_there": False, "differences": (),
        "changed_answers": (), "train_split_in": {"piqa": ("P3", "Flan")}, "seconds": 60.0,
        "provenance": PROVENANCE, "harness": {"lm-eval": "0.4.13"},
        "items_in": {"copa": ("Flan",)},
    }  # fmt: skip
    return EvaluationRecord(**{**settings, **changes})


WHOLE = {"piqa": 0.7, "copa": 0.5, "gsm8k": 0.1}
DIFFERENCE = PairedDifference("sparse", "dense", "piqa", 100, 3, 9, -0.06, -0.127, 0.009)


@pytest.fixture
def two():
    dense = model("dense", WHOLE, sparsity=0.0)
    sparse = model("sparse", {**WHOLE, "piqa": 0.64}, sparsity=0.85, hash="b")
    return record(dense, sparse, differences=(DIFFERENCE,))


def test_table_1_has_a_column_for_each_group(two):
    grid = column_grid(two)
    assert grid.header == ("model", "Commonsense Reasoning", "GSM8K", "average", "sparsity")
    assert grid.rows[0] == ("dense", "60.00 ± 3.54", "10.00 ± 5.00", "35.00 ± 3.06", "0.00 %")
    assert grid.rows[1][-1] == "85.00 %"


def test_table_3_has_a_column_for_each_task(two):
    assert task_grid(two).header == ("model", "PIQA", "COPA", "GSM8K")
    assert task_grid(two).rows[1] == ("sparse", "64.00 ± 5.00", "50.00 ± 5.00", "10.00 ± 5.00")


def test_a_perplexity_is_no_percentage():
    task = score("wikitext2", 38.2, stderr=1.5, metric="word_perplexity")
    found = record(dataclasses.replace(model("m", WHOLE), tasks=(task,)))
    assert task_grid(found).rows == (("m", "38.20 ± 1.50"),)


def test_the_page_says_it_all(two, tmp_path):
    write_record(two, tmp_path)
    page = run_page(tmp_path).markdown()
    for said in (
        "| sparse | PIQA | 100 | 3 | 9 | -6.00 | -12.70 to +0.90 |",
        "dense scores 35.00 ± 3.06 on average at 0.0 % sparsity; sparse 33.50 ± 3.06 at 85.0 % sparsity",
        "piqa: its training split, or a part of it, is in P3 and Flan.",
        "copa: some of the items scored here are in Flan. A model trained on it has seen them.",
        "The quick suite is a small fixed sample",
        "runs/dense, a, dense in float32",
    ):
        assert said in page


def test_quality_against_sparsity_is_drawn_of_two(two, tmp_path):
    write_record(two, tmp_path)
    html = run_page(tmp_path).html()
    assert "Quality against sparsity" in html
    write_record(record(two.models[0]), tmp_path)
    assert "Quality against sparsity" not in run_page(tmp_path).html()


def test_what_is_missing_is_listed_and_not_averaged(tmp_path):
    found = record(
        model("dense", {"piqa": 0.7}),
        missing=(
            MissingTask("copa", "There is no copa.jsonl."),
            MissingTask("gsm8k", NOT_CHOSEN),
        ),
    )
    assert column_grid(found).rows[0][1:4] == ("–", "–", "–")
    assert headline(found) == (
        "dense scores 70.00 ± 5.00 on PIQA; there is no average, for tasks are missing."
    )
    write_record(found, tmp_path)
    page = run_page(tmp_path).markdown()
    assert "- copa: There is no copa.jsonl." in page
    assert "- Not chosen: gsm8k." in page
    assert "– has no average" in page


def test_an_average_that_leaves_something_out_is_marked(tmp_path):
    found = record(model("dense", {"piqa": 0.7}, whole=True))
    assert column_grid(found).rows[0][1:4] == ("70.00 ± 5.00 *", "–", "70.00 ± 5.00 *")
    write_record(found, tmp_path)
    assert "compares with no complete average" in run_page(tmp_path).markdown()


def test_backends_that_agree_and_that_do_not(tmp_path):
    pair = model("m (dense)", WHOLE), model("m (sparse)", WHOLE, sparsity=None, backend="sparse")
    write_record(record(*pair), tmp_path)
    page = run_page(tmp_path).markdown()
    assert "Every backend gives the same answer" in run_page(tmp_path).html()
    assert sparsity_grid(record(*pair)).rows[0] == ("PIQA", "80.00 %", "–")
    change = ChangedAnswer("m (sparse)", "m (dense)", "piqa", "17", 1, 0, 1e-5, 2e-5)
    write_record(record(*pair, changed_answers=(change,)), tmp_path)
    page = run_page(tmp_path).markdown()
    assert "| m (sparse) | piqa | 17 | 0 → 1 | 2e-05 | 1e-05 |" in page


def test_answers_without_an_end_and_cut_prompts_are_told(tmp_path):
    task = score("gsm8k", 0.1, num_unended=40, num_cut_prompts=2)
    write_record(record(dataclasses.replace(model("m", WHOLE), tasks=(task,))), tmp_path)
    page = run_page(tmp_path).markdown()
    assert "GSM8K, m: 40 of 100 answers reached their limit" in page
    assert "GSM8K, m: 2 inputs were longer than the model's context" in page


def test_latex_has_both_tables(two):
    text = latex_tables(two)
    assert text.count(r"\begin{tabular}") == 2
    assert r"dense & 60.00 $\pm$ 3.54 & 10.00 $\pm$ 5.00 & 35.00 $\pm$ 3.06 & 0.00 \% \\" in text
    assert r"\begin{tabular}{lrrrr}" in text


def test_latex_shows_names_as_they_are():
    text = latex_tables(record(model("a_b & 50% {x} \\y", WHOLE)))
    assert r"a\_b \& 50\% \{x\} \textbackslash{}y &" in text


def test_report_writes_the_latex_of_an_evaluation_alone(two, tmp_path):
    write_record(two, tmp_path)
    ps.report(tmp_path)
    assert (tmp_path / "tables.tex").read_text() == latex_tables(two)
