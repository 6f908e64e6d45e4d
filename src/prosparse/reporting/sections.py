# SPDX-License-Identifier: Apache-2.0
"""The parts of a report in reading order, for every kind of record.

Templates know only this list: a section is a title with any of text, figure, table and verbatim
text. What a record lacks simply makes no section.
"""

from __future__ import annotations

import json
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from prosparse.records.run import Milestone, RelufyRecord, Sample, SparsifyRecord, TrainRecord
from prosparse.records.sparsity import MeasureRecord
from prosparse.records.threshold import ThresholdRecord
from prosparse.reporting import plots
from prosparse.reporting.activity_sections import activity_sections
from prosparse.reporting.alternatives import layers_in_words, training_in_words
from prosparse.reporting.grids import (
    data_set_grid,
    layer_grid,
    measure_grid,
    milestone_grid,
    stage_grid,
)
from prosparse.reporting.metric_sections import metric_sections
from prosparse.reporting.numerals import percent
from prosparse.reporting.section import Section
from prosparse.reporting.threshold_sections import named, threshold_sections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.files import Record
    from prosparse.records.sparsity import DataMeasure

Log = list[dict[str, Any]]


@singledispatch
def sections(record: Record, log: Log) -> list[Section]:
    """Return the parts of the report on `record`.

    Args:
        record: Any kind of record.
        log: The run's `log.jsonl`; empty when it has none.
    """
    raise TypeError(type(record))


@sections.register
def _(record: RelufyRecord, log: Log) -> list[Section]:
    return []


@sections.register
def _(record: MeasureRecord, log: Log) -> list[Section]:
    return [
        *metric_sections(record),
        Section("By data set", grid=measure_grid(record)),
        Section(
            "By layer",
            "All data sets pooled, weighted by their tokens.",
            figure=plots.layer_sparsity(record.layer_sparsity, labels=("all data",)),
            alternative=layers_in_words(record.layer_sparsity, "All data"),
        ),
        Section("By layer, in numbers", grid=layer_grid(record), is_folded=True),
        *activity_sections(record),
    ]


@sections.register
def _(record: ThresholdRecord, log: Log) -> list[Section]:
    pair = dict.fromkeys((record.candidates[0], record.chosen_candidate))
    rows = [(named(c), c.sparsity, c.data) for c in pair]
    return [*threshold_sections(record), _data_set_section(rows)]


@sections.register
def _(record: TrainRecord, log: Log) -> list[Section]:
    return [
        *_milestone_sections(record.milestones),
        *_milestone_data_sections(record.milestones),
        *_training_sections(record, log),
        *_final_layers(record.milestones),
        _recipe_section(record),
    ]


@sections.register
def _(record: SparsifyRecord, log: Log) -> list[Section]:
    return [
        *_milestone_sections(record.milestones),
        *_milestone_data_sections(record.milestones),
        *_training_sections(record.training, log),
        *threshold_sections(record.threshold),
        *_sample_sections(record.sample),
        _recipe_section(record.training),
    ]


def _milestone_sections(milestones: Sequence[Milestone]) -> list[Section]:
    if not milestones:
        return []
    text = "The model measured on held-out text at each point of the line; ± is one standard error."
    return [Section("Milestones", text, grid=milestone_grid(milestones))]


def _milestone_data_sections(milestones: Sequence[Milestone]) -> list[Section]:
    if not milestones:
        return []
    return [_data_set_section([(m.label, m.sparsity, m.data) for m in milestones])]


def _data_set_section(rows: Sequence[tuple[str, float, Sequence[DataMeasure]]]) -> Section:
    text = (
        "The same model is not equally sparse on all text. “Mixed” is the mean over all tokens of all "
        "data sets (the shape of Table 8 of ProSparse)."
    )
    return Section("Sparsity by data set", text, grid=data_set_grid(rows))


def _training_sections(record: TrainRecord, log: Log) -> list[Section]:
    target = record.recipe.get("regularization", {}).get("target_sparsity")
    steered = (
        f"In the last one it was steered to {percent(target, 1)} sparsity on held-out text. "
        if target is not None
        else ""
    )
    schedule = Section(
        "Schedule",
        "Within a stage lambda goes from its first to its last value along half a sine period. "
        f"{steered}c is what multiplies the L1 norm (summed over layers, mean over tokens), so it compares "
        "between normalizations.",
        grid=stage_grid(record.stages),
    )
    if not log:
        return [schedule]
    return [
        Section(
            "Training",
            "Sparsity follows the regularization factor lambda (dashed); loss is the "
            "language-modeling part alone.",
            figure=plots.training_curve(log, record.stages),
            alternative=training_in_words(log),
        ),
        Section(
            "Sparsity by layer during training",
            figure=plots.sparsity_heatmap(log, record.stages),
            alternative=" ".join(
                layers_in_words(
                    [float(share) for share in entry["layer_sparsity"]], f"Step {entry['step']:,}"
                )
                for entry in (log[0], log[-1])
            ),
        ),
        schedule,
    ]


def _final_layers(milestones: Sequence[Milestone]) -> list[Section]:
    if not milestones:
        return []
    last = milestones[-1]
    figure = plots.layer_sparsity(last.layer_sparsity, labels=(last.label,))
    words = layers_in_words(last.layer_sparsity, last.label)
    return [Section("Sparsity by layer", figure=figure, alternative=words)]


def _sample_sections(sample: Sample | None) -> list[Section]:
    if sample is None:
        return []
    text = f"The finished model goes on from “{sample.prompt}”:"
    return [Section("A sample of its text", text, verbatim=sample.text)]


def _recipe_section(record: TrainRecord) -> Section:
    recipe = json.dumps(record.recipe, indent=2, ensure_ascii=False)
    return Section("Recipe, every default filled in", verbatim=recipe, is_folded=True)
