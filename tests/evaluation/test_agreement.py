# SPDX-License-Identifier: Apache-2.0
"""Our answers are those of stock lm-eval with its own HFLM on the same items, to the last item."""

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import prosparse as ps
from prosparse.evaluation.batches import Batches
from prosparse.evaluation.one_model import Circumstances, answer_all
from prosparse.evaluation.preparation import load_tasks
from prosparse.evaluation.suite import TASKS_FOLDER, choose_tasks, load_suite

TASKS = [task.name for task in load_suite().tasks]


@pytest.fixture(scope="module")
def stock(model_folder, data_dir):
    """Results of `lm_eval.simple_evaluate`, as anyone may call it with our tasks on its path."""
    shots = {task.name: task.shots for task in load_suite().tasks}
    return {
        name: lm_eval.simple_evaluate(
            HFLM(str(model_folder), device="cpu", dtype="float32"),
            tasks=[name],
            task_manager=TaskManager(
                include_path=str(TASKS_FOLDER),
                include_defaults=False,
                metadata={"data_dir": str(data_dir), "num_shots": shots[name]},
            ),
            confirm_run_unsafe_code=True,
            bootstrap_iters=0,
        )
        for name in TASKS
    }


@pytest.fixture(scope="module")
def ours(model_folder, data_dir, tmp_path_factory):
    loaded, missing = load_tasks(
        choose_tasks("paper", None), "paper", data_dir, True, is_named=False
    )
    assert missing == []
    how = Circumstances(
        device=torch.device("cpu"), dtype="float32", predictors=None, batches=Batches(1, 1), is_chat=False, suite="paper",
        source=str(data_dir), cache=tmp_path_factory.mktemp("cache"), from_cache=False, average_what_is_there=False,
        trust_remote_code=False, progress=False,
    )  # fmt: skip
    return answer_all("relu", model_folder, "dense", loaded, how, None)


@pytest.mark.parametrize("name", TASKS)
def test_every_answer_is_that_of_stock_lm_eval(name, stock, ours):
    theirs = stock[name]["samples"][name]
    metric = next(task.metric for task in load_suite().tasks if task.name == name)
    assert [item.id for item in ours.items[name]] == [sample["doc"]["id"] for sample in theirs]
    for item, sample in zip(ours.items[name], theirs, strict=True):
        (first,), *_ = sample["resps"]
        told = item.told
        if "loglikelihoods" in told:
            assert told["loglikelihoods"] == [likelihood for ((likelihood, _),) in sample["resps"]]
        else:
            assert told.get("text", told.get("answer")) == first
        assert told[metric] == sample[metric]


@pytest.mark.parametrize("name", [name for name in TASKS if name != "wikitext2"])
def test_every_score_is_that_of_stock_lm_eval(name, stock, ours):
    score = next(score for score in ours.scores.tasks if score.task == name)
    results = stock[name]["results"][name]
    (key,) = (key for key in results if key.split(",")[0] == score.metric)
    assert score.score == pytest.approx(results[key])
    assert score.num_items == stock[name]["n-samples"][name]["effective"]


def test_a_perplexity_is_that_of_stock_lm_eval(stock, ours):
    score = next(score for score in ours.scores.tasks if score.task == "wikitext2")
    theirs = stock["wikitext2"]["results"]["wikitext2"]
    assert score.score == pytest.approx(theirs["word_perplexity,none"])


def test_the_sparse_backend_agrees_on_every_multiple_choice(model_folder, data_dir, cache):
    ranked = [task.name for task in load_suite().tasks if task.answers == "ranked"]
    record = ps.evaluate(
        model_folder, tasks=ranked, data_dir=data_dir, backend=["dense", "sparse"],
        precision="float32", device="cpu", progress=False,
    )  # fmt: skip
    dense, sparse = record.models
    assert dense.hash == sparse.hash
    assert [task.score for task in sparse.tasks] == [task.score for task in dense.tasks]
    assert record.changed_answers == ()
    assert dense.sparsity > 0.3
    assert sparse.sparsity is None
