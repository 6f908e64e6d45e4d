# SPDX-License-Identifier: Apache-2.0
"""One model through all tasks: loaded, asked, scored, and let go."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

from prosparse.errors import UserError
from prosparse.evaluation.answer_cache import find_answers, open_answers
from prosparse.evaluation.answering import SOFTMAX, AnsweringModel
from prosparse.evaluation.backends import running_as
from prosparse.evaluation.harness import Item, answer_task, first_prompt, quiet
from prosparse.evaluation.identity import file_hash, model_hash
from prosparse.evaluation.remembering import RememberingModel
from prosparse.evaluation.scores import averages, pooled_sparsity, task_score
from prosparse.evaluation.suite import load_suite
from prosparse.evaluation.zeros import ZeroMeter
from prosparse.model.checkpoint import load, load_tokenizer
from prosparse.model.device import device_name
from prosparse.model.relufy import activation_of
from prosparse.records.evaluation import ModelScores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lm_eval.api.task import ConfigurableTask
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prosparse.evaluation.batches import Batches
    from prosparse.evaluation.suite import SuiteTask
    from prosparse.records.evaluation import TaskScore
    from prosparse.records.sparsity import Activation

# Whose versions may change an answer.
_PACKAGES = ("prosparse", "torch", "transformers", "tokenizers", "lm-eval")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """How models are asked, the same for all of them."""

    device: torch.device
    dtype: str
    predictors: Path | None
    batches: Batches
    is_chat: bool
    suite: str
    source: str
    cache: Path
    from_cache: bool
    average_what_is_there: bool
    trust_remote_code: bool
    progress: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """What one model said."""

    scores: ModelScores
    items: dict[str, list[Item]]
    """By task."""
    prompts: dict[str, str]
    """Task -> its first prompt."""


def answer_all(
    name: str,
    path: str | Path,
    backend: str,
    tasks: Sequence[tuple[SuiteTask, ConfigurableTask]],
    how: Circumstances,
    on_score: Callable[[str, TaskScore], None] | None,
) -> Answered:
    """Return a model's answers to all tasks and its scores.

    Raises:
        UserError: The model cannot be loaded, or not run on this backend, or answers are not in the
            cache although they must be.
    """
    tokenizer = load_tokenizer(path, trust_remote_code=how.trust_remote_code)
    network = load(
        path,
        dtype=getattr(torch, how.dtype),
        device=how.device,
        trust_remote_code=how.trust_remote_code,
    )
    hash = model_hash(network, tokenizer)
    folder = how.cache / hash[:32]
    items: dict[str, list[Item]] = {}
    prompts: dict[str, str] = {}
    scores: list[TaskScore] = []
    answered_on: set[str] = set()
    meter = _meter(network, tokenizer) if backend == "dense" else None
    with running_as(backend, network, how.predictors) as max_tokens:
        with quiet():
            model = AnsweringModel(network, tokenizer, how.batches.scoring, max_tokens)
        for number, (task, loaded) in enumerate(tasks, start=1):
            model.batch_size_per_gpu = how.batches.of(task)
            remembered = find_answers if how.from_cache else open_answers
            file = remembered(folder, task.name, _circumstances(task, backend, how))
            answered_on.add(_machine(file.circumstances))
            title = f"{name}: {task.title} ({number} of {len(tasks)})"
            asked = RememberingModel(model, meter, file, title, how.progress, not how.from_cache)
            items[task.name] = answer_task(task, loaded, asked, how.is_chat)
            prompts[task.name] = first_prompt(loaded)
            d_ff = 0 if meter is None else meter.d_ff
            version = str(loaded.VERSION)
            score = task_score(task, version, how.source, items[task.name], asked.chunks, d_ff)
            scores.append(score)
            if on_score is not None:
                on_score(name, score)
    columns, overall = averages(load_suite().columns, scores, how.average_what_is_there)
    return Answered(
        ModelScores(
            name=name,
            model=str(path),
            backend=backend,
            hash=hash,
            activation=_activation(network),
            dtype=how.dtype,
            batch_size=how.batches.scoring,
            tasks=tuple(scores),
            columns=columns,
            overall=overall,
            sparsity=pooled_sparsity(scores),
            generation_batch_size=how.batches.generation,
            answered_on="; ".join(sorted(answered_on)),
        ),
        items,
        prompts,
    )


def _circumstances(task: SuiteTask, backend: str, how: Circumstances) -> dict[str, Any]:
    """Return what may change an answer besides the model and what it is asked."""
    return {
        "task": task.name,
        "suite": how.suite,
        "backend": backend,
        "predictors": file_hash(how.predictors) if backend == "predicted" else None,
        "device": device_name(how.device),
        "dtype": how.dtype,
        "softmax": str(SOFTMAX),
        "batch_size": how.batches.of(task),
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }


def _machine(circumstances: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in circumstances["versions"].items())
    return f"{circumstances['device']} ({versions})"


def _meter(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ZeroMeter | None:
    """Return a meter; None for a model whose FFNs are not understood, which has its scores all the same."""
    end = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    try:
        return ZeroMeter(network, end)
    except UserError:
        return None


def _activation(network: PreTrainedModel) -> Activation | None:
    try:
        return activation_of(network)
    except UserError:
        return None
