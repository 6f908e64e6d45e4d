# SPDX-License-Identifier: Apache-2.0
"""A run in one sentence and a few large figures, computed from its record alone.

A line is judged by its last milestone against its first, on each data set apart; sparsity is each
milestone's own mean over all tokens.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

from prosparse.records.metric import MetricMeasure, MetricPoint
from prosparse.records.run import Milestone, RelufyRecord, SparsifyRecord, TrainRecord
from prosparse.records.sparsity import MeasureRecord
from prosparse.records.threshold import ThresholdRecord
from prosparse.reporting.numerals import (
    compact_count,
    compact_number,
    duration,
    increase,
    listing,
    percent,
    with_error,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.files import Record

Tile = tuple[str, str]
"""A large figure and what it is."""


@singledispatch
def headline(record: Record) -> str:
    """Return the run's result in one sentence with numbers."""
    raise TypeError(type(record))


@singledispatch
def tiles(record: Record) -> list[Tile]:
    """Return the run's few most important figures, each with its caption."""
    raise TypeError(type(record))


@headline.register
def _(record: RelufyRecord) -> str:
    return (
        f"{record.replaced.name} became {record.activation.name} in all {record.num_layers} FFNs; "
        "the model is not trained yet, so neither its sparsity nor its quality is final."
    )


@tiles.register
def _(record: RelufyRecord) -> list[Tile]:
    return [
        (f"{record.num_layers}", "layers"),
        (f"{record.d_model:,}", "d_model"),
        (f"{record.d_ff:,}", "d_ff, neurons in a layer"),
    ]


@headline.register
def _(record: MeasureRecord) -> str:
    if record.metric is not None:
        return metric_verdict(record.metric)
    total = sum(measure.num_tokens for measure in record.data)
    quality = [f"{with_error(m.perplexity, m.perplexity_stderr)} on {m.data}" for m in record.data]
    return (
        f"{percent(record.sparsity, 1)} of the FFN activations are exactly zero, "
        f"measured on {total:,} tokens; perplexity is {listing(quality)}."
    )


def metric_verdict(metric: MetricMeasure) -> str:
    """Return in words how sparse a model is by a metric, and what that costs."""
    point, budget = metric.point, metric.max_perplexity_increase
    cost = increase(point.perplexity_increase, point.perplexity_increase_stderr)
    found = (
        f"With {metric_setting(point)}, {percent(point.sparsity, 1)} of the FFN activations can be "
        f"left out, at {cost} perplexity"
    )
    if budget is None:
        return f"{found}."
    if metric.is_met:
        return f"{found} (CETT-PPL-{compact_number(100 * budget)}%)."
    if point.setting == 0:
        return (
            f"No CETT stays within {percent(budget, 1)} of perplexity: no neuron can be left out."
        )
    return f"{found}; even so the budget of {percent(budget, 1)} is not used up."


def metric_setting(point: MetricPoint) -> str:
    """Return a metric and its setting in words, e.g. `CETT = 0.2`."""
    name = {"fat": "FAT, epsilon", "topk": "top-k, k / d_ff", "cett": "CETT"}[point.metric]
    return f"{name} = {compact_number(point.setting)}"


@tiles.register
def _(record: MeasureRecord) -> list[Tile]:
    perplexities = [
        (with_error(m.perplexity, m.perplexity_stderr), f"perplexity on {m.data}")
        for m in record.data
    ]
    found = (
        "of FFN activations are zero" if record.metric is None else "of FFN activations left out"
    )
    return [(percent(record.sparsity, 1), found), *perplexities[:3]]


@headline.register
def _(record: ThresholdRecord) -> str:
    before, after = record.candidates[0], record.chosen_candidate
    budget = percent(record.max_perplexity_increase, 1)
    if record.chosen == 0:
        return (
            f"No threshold stayed within the budget of {budget} perplexity: the model keeps plain "
            f"ReLU, and {percent(before.sparsity, 1)} of its FFN activations are zero."
        )
    cost = increase(after.perplexity_increase, after.perplexity_increase_stderr)
    what = f"t = {compact_number(record.chosen)}"
    if after.method != "fixed":
        what = f"a threshold for each layer ({after.method})"
    found = (
        f"FATReLU with {what} raises the share of zero FFN "
        f"activations from {percent(before.sparsity, 1)} to {percent(after.sparsity, 1)} "
        f"at {cost} perplexity (budget {budget})."
    )
    if (checked := record.checked) is None:
        return found
    again = increase(checked.perplexity_increase, checked.perplexity_increase_stderr)
    kept = "keeps" if checked.within_budget else "breaks"
    return f"{found} On other text it is {again}, which {kept} the budget."


@tiles.register
def _(record: ThresholdRecord) -> list[Tile]:
    after = record.chosen_candidate
    different = sorted(set(after.layer_thresholds))
    first = (compact_number(record.chosen), "threshold t, chosen")
    if len(different) > 1:
        span = f"{compact_number(different[0])} to {compact_number(different[-1])}"
        first = (span, "thresholds t by layer, chosen")
    return [
        first,
        (percent(after.sparsity, 1), "of FFN activations are zero"),
        (increase(after.perplexity_increase), "perplexity over t = 0"),
    ]


@headline.register
def _(record: TrainRecord) -> str:
    cost = f"{compact_count(record.num_tokens)} tokens of training"
    return _line_in_words(record.milestones, cost)


@tiles.register
def _(record: TrainRecord) -> list[Tile]:
    return [
        *_line_tiles(record.milestones),
        (compact_count(record.num_tokens), f"tokens in {record.num_steps:,} steps"),
        (duration(record.seconds), "of optimizer steps"),
    ]


@headline.register
def _(record: SparsifyRecord) -> str:
    cost = f"{compact_count(record.training.num_tokens)} tokens of training"
    return _line_in_words(record.milestones, cost)


@tiles.register
def _(record: SparsifyRecord) -> list[Tile]:
    return [
        *_line_tiles(record.milestones),
        (
            compact_count(record.training.num_tokens),
            f"tokens in {record.training.num_steps:,} steps",
        ),
        (duration(record.training.seconds), "of optimizer steps"),
    ]


def perplexity_changes(first: Milestone, last: Milestone) -> list[tuple[str, float]]:
    """Return each shared data set's perplexity(last) / perplexity(first) - 1, by name.

    They are never averaged: training adapts a model to some of its data, and a mean would let that
    hide what sparsity cost on the rest.
    """
    before = {measure.data: measure.perplexity for measure in first.data}
    return [(m.data, m.perplexity / before[m.data] - 1) for m in last.data if m.data in before]


def _line_in_words(milestones: Sequence[Milestone], cost: str) -> str:
    if not milestones:
        return f"The run took {cost} and was not measured on held-out text."
    first, last = milestones[0], milestones[-1]
    zeros = f"{percent(last.sparsity, 1)} of the FFN activations are exactly zero after {cost}"
    if len(milestones) == 1:
        return f"{zeros}."
    changes = [f"{increase(change)} on {name}" for name, change in perplexity_changes(first, last)]
    compared = f"against “{first.label}” (where {percent(first.sparsity, 1)} were zero)"
    return f"{zeros}; perplexity {compared}: {listing(changes)}."


def _line_tiles(milestones: Sequence[Milestone]) -> list[Tile]:
    if not milestones:
        return []
    found = [(percent(milestones[-1].sparsity, 1), "of FFN activations are zero")]
    changes = perplexity_changes(milestones[0], milestones[-1])
    if changes:
        name, worst = max(changes, key=lambda change: change[1])
        found.append((increase(worst), f"perplexity on {name}, the most of any data set"))
    return found
