# SPDX-License-Identifier: Apache-2.0
"""Scores as tables: those of ProSparse (Tables 1 and 3), and what stands behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import duration, percent, with_error

if TYPE_CHECKING:
    from prosparse.records.evaluation import Average, EvaluationRecord, ModelScores, TaskScore

NONE = "–"
INCOMPLETE = "*"
"""Behind an average that leaves something out."""


def column_grid(record: EvaluationRecord) -> Grid:
    """Return Table 1: a row for each model, its average in each group of tasks, over all, sparsity."""
    header = ("model", *(column.name for column in record.columns), "average", "sparsity")
    rows = tuple(
        (
            scores.name,
            *(average_text(mean) for mean in scores.columns),
            average_text(scores.overall),
            NONE if scores.sparsity is None else percent(scores.sparsity),
        )
        for scores in record.models
    )
    return Grid(header, rows)


def task_grid(record: EvaluationRecord) -> Grid:
    """Return Table 3: a row for each model, its score on each task."""
    first = record.models[0].tasks
    rows = tuple(
        (scores.name, *(score_text(task) for task in scores.tasks)) for scores in record.models
    )
    return Grid(("model", *(task.title for task in first)), rows)


def setting_grid(record: EvaluationRecord) -> Grid:
    """Return how each task was asked and scored."""
    rows = tuple(
        (
            task.title,
            {"none": "text itself"}.get(task.answers, task.answers),
            task.metric,
            str(task.num_shots),
            f"{task.num_items:,}",
            task.version,
            duration(sum(scores.tasks[index].seconds for scores in record.models)),
        )
        for index, task in enumerate(record.models[0].tasks)
    )
    header = ("task", "answers", "metric", "shots", "items", "version", "time, all models")
    return Grid(header, rows, num_text_columns=3)


def sparsity_grid(record: EvaluationRecord) -> Grid:
    """Return the sparsity during each task, a column for each model."""
    rows = tuple(
        (
            task.title,
            *(
                NONE if share is None else percent(share)
                for share in (scores.tasks[index].sparsity for scores in record.models)
            ),
        )
        for index, task in enumerate(record.models[0].tasks)
    )
    pooled = (
        NONE if scores.sparsity is None else percent(scores.sparsity) for scores in record.models
    )
    header = ("task", *(scores.name for scores in record.models))
    return Grid(header, (*rows, ("all tokens", *pooled)))


def difference_grid(record: EvaluationRecord) -> Grid:
    """Return each model against the first, on the same items."""
    titles = {task.task: task.title for task in record.models[0].tasks}
    rows = tuple(
        (
            found.model,
            titles.get(found.name, found.name),
            f"{found.num_items:,}",
            f"{found.num_better:,}",
            f"{found.num_worse:,}",
            f"{100 * found.difference:+.2f}",
            f"{100 * found.low:+.2f} to {100 * found.high:+.2f}",
        )
        for found in record.differences
    )
    header = ("model", "task", "items", "only it right", "only it wrong", "difference", "95 %")
    return Grid(header, rows, num_text_columns=2)


def changed_grid(record: EvaluationRecord) -> Grid:
    """Return the items that one model answers differently on two backends."""
    rows = tuple(
        (
            found.model,
            found.task,
            found.item,
            f"{found.other_answer} → {found.answer}",
            f"{found.other_margin:.2g}",
            f"{found.margin:.2g}",
        )
        for found in record.changed_answers
    )
    header = ("model", "task", "item", "answer", "margin before", "margin after")
    return Grid(header, rows, num_text_columns=3)


def score_text(task: TaskScore) -> str:
    """Return a score with its standard error, in points of a hundred; a perplexity as it is."""
    if task.metric.endswith("perplexity"):
        return with_error(task.score, task.stderr)
    return with_error(100 * task.score, 100 * task.stderr)


def average_text(mean: Average) -> str:
    """Return an average likewise; with an asterisk when it leaves something out."""
    if mean.score is None or mean.stderr is None:
        return NONE
    text = with_error(100 * mean.score, 100 * mean.stderr)
    return f"{text} {INCOMPLETE}" if mean.missing else text


def quality(scores: ModelScores) -> tuple[float, float] | None:
    """Return what a model is judged by in a plot: its average and the error, in points of a hundred."""
    mean = scores.overall
    if mean.score is None or mean.stderr is None:
        return None
    return 100 * mean.score, 100 * mean.stderr
