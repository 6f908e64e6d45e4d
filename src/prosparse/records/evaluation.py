# SPDX-License-Identifier: Apache-2.0
"""What models scored on benchmarks, and how they differ on the same items."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from prosparse.records.provenance import Provenance
from prosparse.records.sparsity import Activation

if TYPE_CHECKING:
    from collections.abc import Sequence


NOT_CHOSEN = "not chosen"
"""Why a task is missing that could have run."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of Table 1: a group of tasks."""

    name: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One model on one task."""

    task: str
    title: str
    version: str
    """Of the task: its prompt and its metric."""
    metric: str
    """acc, acc_norm (log-likelihood for each character), exact_match, pass@1, word_perplexity."""
    answers: Literal["ranked", "generated", "none"]
    """Candidates by their perplexity, free text, or none."""
    num_shots: int
    num_items: int
    source: str
    """Folder of local files, or `hub`."""
    score: float
    """Mean over items, in [0, 1]; of word_perplexity the perplexity."""
    stderr: float
    """Standard error of `score`, items as the independent units."""
    other_metrics: dict[str, float]
    sparsity: float | None
    """Share of zeros in x_1 over the tokens of this task; None where the sparse path ran, whose zeros
    cannot be seen from outside, or where the FFNs are not understood."""
    num_tokens: int
    """Tokens that `sparsity` is of; 0 where there is none."""
    num_unended: int
    """Generated answers that reached their limit of tokens without a stop."""
    num_cut_prompts: int
    """Prompts longer than the model's context, whose beginning was left out."""
    seconds: float
    """To answer; of answers taken from the cache, what they took then."""


@dataclass(frozen=True, slots=True)
class Average:
    """A mean over tasks, or over columns."""

    name: str
    score: float | None
    """None when something it is of is missing, unless the caller asked to average what is there."""
    stderr: float | None
    missing: tuple[str, ...] = ()
    """Tasks or columns without a score."""


@dataclass(frozen=True, slots=True)
class ModelScores:
    """One model on every task that ran."""

    name: str
    """Short, and different from the other models' names."""
    model: str
    backend: str
    hash: str
    """Of weights, configuration and tokenizer."""
    activation: Activation | None
    """None where the FFNs are not understood."""
    dtype: str
    batch_size: int
    tasks: tuple[TaskScore, ...]
    columns: tuple[Average, ...]
    """Of Table 1, in its order."""
    overall: Average
    """Mean of the columns."""
    sparsity: float | None
    """Over all tokens of all tasks it was counted on."""
    generation_batch_size: int = 1
    """`batch_size` is that of the tasks in which nothing is generated."""
    answered_on: str = ""
    """The device that gave the answers and the versions there, which the cache may have from elsewhere."""


@dataclass(frozen=True, slots=True)
class MissingTask:
    """A task of the paper's benchmarks that has no score."""

    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A model against the first one, on the same items."""

    model: str
    against: str
    name: str
    """Task or column."""
    num_items: int
    num_better: int
    """Items right here and wrong there."""
    num_worse: int
    difference: float
    """Score here minus score there."""
    low: float
    """95 % confidence interval."""
    high: float


@dataclass(frozen=True, slots=True)
class ChangedAnswer:
    """An item of multiple choice that one model answers differently on two backends."""

    model: str
    against: str
    task: str
    item: str
    answer: int
    other_answer: int
    margin: float
    """By how much the chosen candidate led: log-likelihood, for each character where that ranks."""
    other_margin: float


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """The result of `prosparse evaluate`. Every item's answer is in `items/` beside the record."""

    model: str
    """The first model, which the others are held against."""
    suite: str
    is_chat: bool
    """Whether prompts went through the chat template."""
    models: tuple[ModelScores, ...]
    columns: tuple[Column, ...]
    missing: tuple[MissingTask, ...]
    averages_what_is_there: bool
    """Whether averages leave out what is missing."""
    differences: tuple[PairedDifference, ...]
    changed_answers: tuple[ChangedAnswer, ...]
    train_split_in: dict[str, tuple[str, ...]]
    """Task -> corpora known to hold its training split."""
    seconds: float
    provenance: Provenance
    harness: dict[str, str] = field(default_factory=dict)
    """Versions of lm-eval and datasets."""
    items_in: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Task -> corpora known to hold some of its items."""
    kind: Literal["evaluate"] = "evaluate"


def average(
    name: str, scores: Sequence[tuple[str, float | None, float | None]], what_is_there: bool
) -> Average:
    """Return the mean of named scores with its standard error, each score as independent.

    Args:
        name: Of the average.
        scores: Name, score and standard error; None for both where there is none.
        what_is_there: Leave out what is missing, if anything is there.
    """
    found = [(score, stderr) for _, score, stderr in scores if score is not None]
    missing = tuple(part for part, score, _ in scores if score is None)
    if not found or (missing and not what_is_there):
        return Average(name, None, None, missing)
    mean = sum(score for score, _ in found) / len(found)
    variance = sum((math.nan if e is None else e) ** 2 for _, e in found) / len(found) ** 2
    return Average(name, mean, math.sqrt(variance), missing)
