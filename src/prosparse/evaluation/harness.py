# SPDX-License-Identifier: Apache-2.0
"""Our tasks through lm-eval: loaded by its TaskManager, asked and scored by its `evaluate`."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lm_eval
import numpy as np
from lm_eval.tasks import TaskManager

from prosparse.evaluation.suite import TASKS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lm_eval.api.model import LM
    from lm_eval.api.task import ConfigurableTask

    from prosparse.evaluation.suite import SuiteTask


@dataclass(frozen=True, slots=True)
class Item:
    """One item, answered and scored."""

    id: str
    value: float
    """Of the metric that counts; of a perplexity the log-likelihood."""
    weight: float
    """Of a perplexity the number of words, else 1."""
    told: dict[str, Any]
    """For the file: what was answered, what was right, every metric."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back lm-eval's warnings: of options that we do not use, for every task anew."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def load_task(task: SuiteTask, data_dir: str | None, num_items: int | None) -> ConfigurableTask:
    """Return a task with its items.

    Raises:
        MissingData: They are not there.
    """
    where = {"data_dir": data_dir, "num_items": num_items, "num_shots": task.shots}
    with quiet():
        manager = TaskManager(
            include_path=str(TASKS_FOLDER), include_defaults=False, metadata=where
        )
        return _prompted_once(manager.load([task.name])["tasks"][task.name])


def answer_task(task: SuiteTask, loaded: ConfigurableTask, model: LM, is_chat: bool) -> list[Item]:
    """Return every item of a task as a model answers it, in the order of the data."""
    with quiet():
        results = lm_eval.evaluate(
            model,
            {"tasks": {task.name: loaded}, "groups": {}, "group_map": {}},
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=is_chat,
            fewshot_as_multiturn=False,
            confirm_run_unsafe_code=True,  # the caller was asked; such tasks are not here otherwise
        )
    assert results is not None
    return [_item(task, loaded, sample) for sample in results["samples"][task.name]]


def first_prompt(loaded: ConfigurableTask) -> str:
    """Return the first item as a model is asked it, examples and all."""
    context = loaded.instances[0].args[0]
    return context if isinstance(context, str) else str(context)


def _prompted_once(task: ConfigurableTask) -> ConfigurableTask:
    """Make a task write its prompts once for all models, which its examples make slow.

    A chat template is a model's own, so there they are written anew.
    """
    build, is_built = task.build_all_requests, False

    def build_once(**options: Any) -> None:
        nonlocal is_built
        if options.get("apply_chat_template") or not is_built:
            build(**options)
            is_built = True
        for instance in task.instances:
            instance.resps, instance.filtered_resps = [], {}

    task.build_all_requests = build_once
    return task


def _item(task: SuiteTask, loaded: ConfigurableTask, sample: dict[str, Any]) -> Item:
    value = sample[task.metric]
    told: dict[str, Any] = {"id": str(sample["doc"]["id"])}
    answers = [answer for (answer,) in sample["resps"]]
    if loaded.OUTPUT_TYPE == "multiple_choice":
        likelihoods = [likelihood for likelihood, _ in answers]
        chosen, margin = _chosen(likelihoods, loaded.doc_to_choice(sample["doc"]), task.metric)
        told |= {"target": sample["doc"]["label"], "chosen": chosen, "margin": margin}
        told["loglikelihoods"] = likelihoods
    elif loaded.OUTPUT_TYPE == "generate_until":
        told |= {"target": sample["target"], "text": answers[0]}
        if not task.runs_code:
            told["answer"] = sample["filtered_resps"][0]
    else:
        told["answer"] = answers[0]
    told |= {name: sample[name] for name in sample["metrics"]}
    if isinstance(value, tuple):
        return Item(told["id"], value[0], value[1], told)
    return Item(told["id"], float(value), 1.0, told)


def _chosen(likelihoods: list[float], choices: list[str], metric: str) -> tuple[int, float]:
    """Return the index of the chosen candidate and by how much it led."""
    lengths = np.array([len(choice) for choice in choices], dtype=float)
    scores = np.array(likelihoods) / (lengths if metric == "acc_norm" else 1.0)
    second, best = np.sort(scores)[-2:]
    return int(np.argmax(scores)), float(best - second)
