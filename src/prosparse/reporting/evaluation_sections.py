# SPDX-License-Identifier: Apache-2.0
"""The report on an evaluation; importing this makes `headline`, `tiles` and `sections` know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prosparse.records.evaluation import NOT_CHOSEN, EvaluationRecord
from prosparse.reporting.evaluation_grids import (
    average_text,
    changed_grid,
    column_grid,
    difference_grid,
    quality,
    score_text,
    setting_grid,
    sparsity_grid,
    task_grid,
)
from prosparse.reporting.latex import latex_table
from prosparse.reporting.numerals import duration, listing, percent
from prosparse.reporting.plots import WIDTH
from prosparse.reporting.sections import Section, sections
from prosparse.reporting.summary import Tile, headline, tiles
from prosparse.reporting.svg import BLUE, GREEN, drawing

if TYPE_CHECKING:
    from prosparse.records.evaluation import ModelScores

CAPTION_1 = (
    "Performance (%) by group of benchmarks and activation sparsity (%), as Table 1 of ProSparse."
)
CAPTION_3 = "Performance (%) on each benchmark, as Table 3 of ProSparse."


@headline.register
def _(record: EvaluationRecord) -> str:
    first = record.models[0]
    if first.overall.score is None:
        found = listing([f"{score_text(task)} on {task.title}" for task in first.tasks[:3]])
        more = len(first.tasks) - 3
        rest = f" and {more} more" if more > 0 else ""
        return f"{first.name} scores {found}{rest}; there is no average, for tasks are missing."
    told = f"{first.name} scores {average_text(first.overall)} on average"
    judged = [(scores, scores.overall.score) for scores in record.models[1:]]
    others = [
        f"{scores.name} {average_text(scores.overall)}{_with_sparsity(scores)}"
        for scores, score in judged
        if score is not None
    ]
    return f"{told}{_with_sparsity(first)}{'; ' if others else ''}{listing(others)}."


@tiles.register
def _(record: EvaluationRecord) -> list[Tile]:
    named = [
        (average_text(scores.overall), f"average of {scores.name}")
        for scores in record.models
        if scores.overall.score is not None
    ]
    sparsest = max(record.models, key=lambda scores: scores.sparsity or 0.0)
    if sparsest.sparsity is not None:
        named.append(
            (percent(sparsest.sparsity, 1), f"of FFN activations are zero in {sparsest.name}")
        )
    return named[:4] or [(f"{len(record.models[0].tasks)}", "tasks")]


@sections.register
def _(record: EvaluationRecord, log: list[dict[str, Any]]) -> list[Section]:
    return [
        Section("By group", _about_averages(record), grid=column_grid(record)),
        Section("By task", "Each with its standard error over items.", grid=task_grid(record)),
        *_missing(record),
        *_plot(record),
        *_differences(record),
        *_backends(record),
        Section(
            "Sparsity by task",
            "Zeros in x_1 over every token of prompts and answers. The more formatted the text, the "
            "sparser (Q5 of ProSparse).",
            grid=sparsity_grid(record),
        ),
        Section(
            "How each task was asked",
            "Ranked: the candidate of the lowest perplexity. Generated: greedily, up to a stop.",
            grid=setting_grid(record),
        ),
        *_warnings(record),
    ]


def latex_tables(record: EvaluationRecord) -> str:
    """Return Table 1 and Table 3 as LaTeX."""
    return "\n".join(
        latex_table(grid, caption)
        for grid, caption in ((column_grid(record), CAPTION_1), (task_grid(record), CAPTION_3))
    )


def evaluation_facts(record: EvaluationRecord) -> list[tuple[str, str]]:
    """Return how the models were asked, as names and values."""
    facts = [
        (scores.name, f"{scores.model}, {scores.hash[:16]}, {scores.backend} in {scores.dtype}")
        for scores in record.models
    ]
    one = record.models[0]
    machines = dict.fromkeys(scores.answered_on for scores in record.models if scores.answered_on)
    harness = ", ".join(f"{name} {version}" for name, version in record.harness.items())
    return [
        *facts,
        ("suite", record.suite),
        ("items from", one.tasks[0].source),
        ("prompts", "through the chat template" if record.is_chat else "as they are"),
        ("batch size", f"{one.batch_size}, where the model writes {one.generation_batch_size}"),
        *(("answered on", machine) for machine in machines),
        ("harness", harness),
        ("time", duration(record.seconds)),
    ]


def evaluation_notes(record: EvaluationRecord) -> list[str]:
    """Return what a reader must know of the scores."""
    notes = [
        "Scores are in points of a hundred; ± is one standard error, items as the independent units. "
        "Models were asked the same items, so their differences are known better than the errors of "
        "either tell: read the table of differences.",
        "Sparsity is the share of exact zeros in x_1 = act(gate) * up over the tokens of these tasks; "
        "ProSparse gives it on a sample of training data.",
        "`items/` beside the record has every answer, one JSON line each, and `prompts/` the first "
        "prompt of each task with its examples.",
    ]
    if record.suite == "quick":
        notes.append(
            "The quick suite is a small fixed sample: a first look, not a result to quote."
        )
    if max(record.models[0].batch_size, record.models[0].generation_batch_size) > 1:
        notes.append(
            "Items ran in batches, whose rounding can turn an answer that was close; with a batch size "
            "of 1 no item depends on another."
        )
    return notes


def quality_plot(record: EvaluationRecord) -> str:
    """Return average performance over sparsity, a point for each model that has both."""
    with drawing("evaluation", WIDTH, 3.6) as plot:
        axes = plot.figure.subplots()
        first, plotted = record.models[0], _plotted(record)
        for index, scores in enumerate(sorted(plotted, key=lambda scores: scores.sparsity or 0.0)):
            mean, error = quality(scores) or (0.0, 0.0)
            at = 100 * (scores.sparsity or 0.0), mean
            color = BLUE if scores is first else GREEN
            axes.errorbar(*at, yerr=error, fmt="o", color=color, capsize=3)
            # Neighbors are often as good as each other: their names stand on different sides.
            side, shift = ("left", 7) if index % 2 == 0 else ("right", -7)
            axes.annotate(
                scores.name, at, (shift, 4), textcoords="offset points", ha=side, color=color
            )
        axes.set_xlabel("activation sparsity (%)")
        axes.set_ylabel("average performance (%)")
        axes.margins(x=0.2, y=0.2)
        axes.grid()
    return plot.svg


def _plotted(record: EvaluationRecord) -> list[ModelScores]:
    return [s for s in record.models if quality(s) is not None and s.sparsity is not None]


def _plot(record: EvaluationRecord) -> list[Section]:
    if len(_plotted(record)) < 2:
        return []
    return [
        Section(
            "Quality against sparsity",
            "The average performance with its standard error.",
            figure=quality_plot(record),
            alternative=f"{headline(record)} The numbers are in the first table.",
        )
    ]


def _about_averages(record: EvaluationRecord) -> str:
    text = "A column is the mean of its tasks, the average that of the seven columns."
    if any(mean.missing and mean.score is not None for mean in _all_means(record)):
        return f"{text} * leaves out what is missing, so it compares with no complete average."
    if any(mean.score is None for mean in _all_means(record)):
        return f"{text} – has no average, for tasks are missing."
    return text


def _all_means(record: EvaluationRecord) -> list:
    return [mean for scores in record.models for mean in (*scores.columns, scores.overall)]


def missing_texts(record: EvaluationRecord) -> list[str]:
    """Return why tasks are missing, those that were not chosen in one sentence."""
    told = [
        f"{missing.task}: {missing.reason.rstrip('.')}."
        for missing in record.missing
        if missing.reason != NOT_CHOSEN
    ]
    others = [missing.task for missing in record.missing if missing.reason == NOT_CHOSEN]
    return [*told, *([f"Not chosen: {listing(others)}."] if others else [])]


def _missing(record: EvaluationRecord) -> list[Section]:
    told = missing_texts(record)
    return [Section("Missing tasks", items=tuple(told))] if told else []


def _differences(record: EvaluationRecord) -> list[Section]:
    if not record.differences:
        return []
    text = (
        f"Against {record.models[0].name}, item by item; the interval is Agresti and Min's for matched "
        "proportions. Of many intervals one in twenty misses, so read no single one as proof."
    )
    return [Section("Differences on the same items", text, grid=difference_grid(record))]


def _backends(record: EvaluationRecord) -> list[Section]:
    hashes = [scores.hash for scores in record.models]
    if len(set(hashes)) == len(hashes):
        return []
    if not record.changed_answers:
        text = "Every backend gives the same answer to every item of multiple choice."
        return [Section("Backends", text)]
    text = (
        "Items of multiple choice that backends answer differently, with the lead of the chosen answer "
        "in log-likelihood, or in log-likelihood for each character where that ranks."
    )
    return [Section("Backends", text, grid=changed_grid(record))]


def _warnings(record: EvaluationRecord) -> list[Section]:
    told = [
        f"{task.title}, {scores.name}: {task.num_unended} of {task.num_items} answers reached their "
        "limit of tokens without a stop."
        for scores in record.models
        for task in scores.tasks
        if task.num_unended
    ]
    told += [
        f"{task.title}, {scores.name}: {task.num_cut_prompts} inputs were longer than the model's "
        "context and lost their beginning."
        for scores in record.models
        for task in scores.tasks
        if task.num_cut_prompts
    ]
    told += [
        f"{task}: its training split, or a part of it, is in {listing(list(corpora))}. A model trained "
        "on one of these has seen the task, if not the items."
        for task, corpora in record.train_split_in.items()
    ]
    told += [
        f"{task}: some of the items scored here are in {listing(list(corpora))}. A model trained on it has "
        "seen them."
        for task, corpora in record.items_in.items()
    ]
    return [Section("To keep in mind", items=tuple(told))] if told else []


def _with_sparsity(scores: ModelScores) -> str:
    return "" if scores.sparsity is None else f" at {percent(scores.sparsity, 1)} sparsity"
