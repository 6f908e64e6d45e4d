# SPDX-License-Identifier: Apache-2.0
"""Records as rows of finished text: one truth for terminal, Markdown and HTML tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prosparse.reporting.numerals import (
    compact_count,
    compact_number,
    increase,
    percent,
    with_error,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.run import Milestone, StageRecord
    from prosparse.records.sparsity import DataMeasure, MeasureRecord
    from prosparse.records.threshold import ThresholdCandidate, ThresholdRecord

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text."""

    header: Row
    """Column titles; empty for a plain list of facts."""
    rows: tuple[Row, ...]
    marked: int | None = None
    """Index of the row that was chosen, if any."""
    num_text_columns: int = 1
    """Leading columns that hold words (set left); the others hold numbers (set right)."""
    best: frozenset[tuple[int, int]] = frozenset()
    """Cells (row, column) that hold the best of their column."""


def milestone_header(data_names: Sequence[str]) -> Row:
    """Return the titles of the milestone table."""
    return ("milestone", "sparsity", *_perplexity_titles(data_names), "lambda", "tokens")


def milestone_row(milestone: Milestone) -> Row:
    """Return one milestone's cells, in the order of `milestone_header`."""
    return (
        milestone.label,
        percent(milestone.sparsity),
        *_perplexities(milestone.data),
        compact_number(milestone.factor),
        compact_count(milestone.tokens_seen),
    )


def milestone_grid(milestones: Sequence[Milestone]) -> Grid:
    """Return the table of a whole line."""
    names = [measure.data for measure in milestones[0].data] if milestones else []
    return Grid(milestone_header(names), tuple(milestone_row(m) for m in milestones))


def threshold_header(data_names: Sequence[str]) -> Row:
    """Return the titles of the threshold table (Table 9 of ProSparse, quality as perplexity)."""
    return ("t", "sparsity", *_perplexity_titles(data_names), "ppl increase", "verdict")


def threshold_row(candidate: ThresholdCandidate) -> Row:
    """Return one candidate's cells, in the order of `threshold_header`."""
    return (
        threshold_setting(candidate),
        percent(candidate.sparsity),
        *_perplexities(candidate.data),
        increase(candidate.perplexity_increase, candidate.perplexity_increase_stderr),
        "within budget" if candidate.within_budget else "over budget",
    )


def threshold_setting(candidate: ThresholdCandidate) -> str:
    """Return what sets a candidate's thresholds apart, e.g. `0.02`, `cett 0.11`, `per-layer 0.9 %`."""
    if candidate.method == "per-layer":
        return f"per-layer {100 * candidate.threshold:.3g} %"
    if candidate.method == "cett":
        return f"cett {candidate.threshold:.3g}"
    return compact_number(candidate.threshold)


def threshold_grid(record: ThresholdRecord) -> Grid:
    """Return the table of a search, with the chosen candidate marked."""
    chosen = record.candidates.index(record.chosen_candidate)
    rows = [threshold_row(candidate) for candidate in record.candidates]
    rows[chosen] = (*rows[chosen][:-1], "chosen")
    names = [measure.data for measure in record.candidates[0].data]
    return Grid(threshold_header(names), tuple(rows), marked=chosen)


def measure_grid(record: MeasureRecord) -> Grid:
    """Return sparsity by data set (Table 8 of ProSparse) with perplexity and tokens beneath."""
    total = sum(measure.num_tokens for measure in record.data)
    return Grid(
        ("", "mixed", *(measure.data for measure in record.data)),
        (
            ("sparsity", percent(record.sparsity), *(percent(m.sparsity) for m in record.data)),
            ("perplexity", "", *_perplexities(record.data)),
            ("tokens", f"{total:,}", *(f"{m.num_tokens:,}" for m in record.data)),
        ),
    )


def data_set_grid(rows: Sequence[tuple[str, float, Sequence[DataMeasure]]]) -> Grid:
    """Return sparsity by data set, a row for each model (Table 8 of ProSparse).

    Args:
        rows: Name, sparsity over all tokens, and the measures of each data set; all of the same.
    """
    names = [measure.data for measure in rows[0][2]]
    return Grid(
        ("", "mixed", *names),
        tuple(
            (name, percent(mixed), *(percent(m.sparsity) for m in data))
            for name, mixed, data in rows
        ),
    )


def layer_grid(record: MeasureRecord) -> Grid:
    """Return sparsity by layer, pooled and for each data set."""
    columns = (record.layer_sparsity, *(measure.layer_sparsity for measure in record.data))
    return Grid(
        ("layer", "mixed", *(measure.data for measure in record.data)),
        tuple(
            (str(layer), *(percent(share) for share in shares))
            for layer, shares in enumerate(zip(*columns, strict=True))
        ),
    )


def stage_grid(stages: Sequence[StageRecord]) -> Grid:
    """Return the regularization schedule as it was run (Table 6 of ProSparse)."""
    return Grid(
        ("stage", "steps", "lambda, first", "lambda, last", "c, last", "tokens at the end"),
        tuple(
            (
                stage.name,
                f"{stage.first_step:,} to {stage.last_step:,}",
                compact_number(stage.start_factor),
                compact_number(stage.end_factor),
                compact_number(stage.end_coefficient),
                compact_count(stage.end_tokens),
            )
            for stage in stages
        ),
    )


def _perplexity_titles(data_names: Sequence[str]) -> list[str]:
    return [f"ppl {name}" for name in data_names]


def _perplexities(measures: Sequence[DataMeasure]) -> list[str]:
    return [with_error(m.perplexity, m.perplexity_stderr) for m in measures]
