# SPDX-License-Identifier: Apache-2.0
"""From items to scores: a task's mean, the columns of Table 1, the overall average."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from prosparse.records.evaluation import Average, Column, TaskScore, average

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.evaluation.answer_cache import Chunk
    from prosparse.evaluation.harness import Item
    from prosparse.evaluation.suite import SuiteTask


def task_score(
    task: SuiteTask,
    version: str,
    source: str,
    items: Sequence[Item],
    chunks: Sequence[Chunk],
    d_ff: int,
) -> TaskScore:
    """Return a task's score and what was counted while it was answered."""
    is_perplexity = task.metric.endswith("perplexity")
    score, stderr = (_perplexity if is_perplexity else _mean)(items)
    num_tokens = sum(chunk.num_tokens for chunk in chunks)
    others = {
        name: fmean(item.told[name] for item in items)
        for name in items[0].told
        if name in ("acc", "acc_norm") and name != task.metric
    }
    return TaskScore(
        task=task.name,
        title=task.title,
        version=version,
        metric=task.metric,
        answers=task.answers,
        num_shots=task.shots,
        num_items=len(items),
        source=source,
        score=score,
        stderr=stderr,
        other_metrics=others,
        sparsity=sparsity(chunks, d_ff) if num_tokens else None,
        num_tokens=num_tokens,
        num_unended=sum(chunk.num_unended for chunk in chunks),
        num_cut_prompts=sum(chunk.num_cut_prompts for chunk in chunks),
        seconds=sum(chunk.seconds for chunk in chunks),
    )


def sparsity(chunks: Sequence[Chunk], d_ff: int) -> float:
    """Return the share of zeros in x_1 over all tokens and layers."""
    active = sum(sum(chunk.active_L) for chunk in chunks)
    entries = sum(len(chunk.active_L) * chunk.num_tokens * d_ff for chunk in chunks)
    return 1 - active / entries


def pooled_sparsity(tasks: Sequence[TaskScore]) -> float | None:
    """Return the mean over all tokens of the tasks it was counted on; None where it was on none."""
    counted = [(task.sparsity, task.num_tokens) for task in tasks if task.sparsity is not None]
    total = sum(num_tokens for _, num_tokens in counted)
    return sum(share * num_tokens for share, num_tokens in counted) / total if total else None


def averages(
    columns: Sequence[Column], tasks: Sequence[TaskScore], what_is_there: bool
) -> tuple[tuple[Average, ...], Average]:
    """Return the columns of Table 1 and their mean; see `average`."""
    found = {task.task: task for task in tasks}
    means = tuple(
        average(
            column.name,
            [
                (name, found[name].score, found[name].stderr)
                if name in found
                else (name, None, None)
                for name in column.tasks
            ],
            what_is_there,
        )
        for column in columns
    )
    parts = [(mean.name, mean.score, mean.stderr) for mean in means]
    return means, average("Average Performance", parts, what_is_there)


def _mean(items: Sequence[Item]) -> tuple[float, float]:
    values = [item.value for item in items]
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return fmean(values), error


def _perplexity(items: Sequence[Item]) -> tuple[float, float]:
    """Return exp of the mean negative log-likelihood of a word, and its error over documents."""
    num_words = sum(item.weight for item in items)
    nll = -sum(item.value for item in items) / num_words
    if len(items) < 2:
        return math.exp(nll), math.nan
    squares = sum((item.value + nll * item.weight) ** 2 for item in items)
    error = math.sqrt(squares * len(items) / (len(items) - 1)) / num_words
    return math.exp(nll), math.exp(nll) * error
