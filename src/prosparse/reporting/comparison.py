# SPDX-License-Identifier: Apache-2.0
"""The page that holds any number of runs against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.reporting import comparison_plots as plots
from prosparse.reporting.activity_plots import union_curves
from prosparse.reporting.activity_sections import union_grid
from prosparse.reporting.alternatives import layers_in_words, training_in_words
from prosparse.reporting.compared_runs import ComparedRun, data_names, read_runs
from prosparse.reporting.comparison_words import (
    UNKNOWN,
    compares,
    differences,
    setting_grid,
    verdict,
    warnings,
)
from prosparse.reporting.facts import activation_text
from prosparse.reporting.grids import Grid, threshold_row
from prosparse.reporting.numerals import compact_count, percent, with_error
from prosparse.reporting.rendering import Page
from prosparse.reporting.section import Section

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOTES = (
    "Sparsity is the share of exact zeros in x_1, the input of down_proj: the mean over tokens, then "
    "over layers. Perplexity's ± is one standard error, with whole windows as the independent units.",
    "Differences are told beyond or within two standard errors of both runs, as if each had been "
    "measured on text of its own. Where the text is the same this is cautious: paired windows, as "
    "`prosparse threshold` has them, would tell smaller differences. Seeds are not in these errors.",
    "▸ marks the best of a column: the most zeros, or the lowest perplexity where all runs were "
    "measured on the same tokens in windows of the same length.",
)


def comparison_page(folders: Sequence[Path]) -> Page:
    """Return the comparison of the runs in these folders; the first is what others are held against.

    Raises:
        UserError: A folder has no record, or one that does not compare.
    """
    runs = read_runs(folders)
    return Page(
        title=f"{len(runs)} runs compared",
        kind="comparison",
        headline=verdict(runs),
        tiles=[(percent(run.sparsity, 1), f"zeros in {run.name}") for run in runs],
        sections=[*_word_sections(runs), *_result_sections(runs), *_curve_sections(runs)],
        facts=_provenance_grid(runs),
        notes=NOTES,
    )


def _word_sections(runs: Sequence[ComparedRun]) -> list[Section]:
    unlike, settings = warnings(runs), setting_grid(runs)
    about = "Read every figure below with these in mind." if unlike else ""
    if not unlike:
        about = "All were measured on the same tokens, in windows of one length and in one dtype."
    found = [
        Section("Side by side", grid=overview_grid(runs)),
        Section("In words", f"Against {runs[0].name}, the first.", items=differences(runs)),
        Section("What was not measured alike", about, items=unlike),
    ]
    if settings is not None:
        found.append(Section("Settings that differ", grid=settings, is_folded=True))
    return found


def _result_sections(runs: Sequence[ComparedRun]) -> list[Section]:
    names = data_names(runs)
    shared = [name for name in names if compares(runs, name)]
    found = [
        Section(
            "Perplexity by data set",
            _unshared_text(names, shared),
            plots.perplexity_dots(runs, names),
            alternative="The numbers are in the table “Side by side”.",
        )
    ]
    if shared:
        found.append(
            Section(
                "Sparsity against perplexity",
                f"The mean over {', '.join(shared)}. The lower right is best.",
                plots.frontier_dots(runs, shared),
                alternative="The numbers are in the table “Side by side”.",
            )
        )
    text = "“Mixed” is the mean over all tokens of all data sets (Table 8 of ProSparse)."
    return [*found, Section("Sparsity by data set", text, grid=data_set_grid(runs))]


def _curve_sections(runs: Sequence[ComparedRun]) -> list[Section]:
    layers = " ".join(layers_in_words(run.layer_sparsity, run.name) for run in runs)
    found = [Section("Sparsity by layer", figure=plots.layer_curves(runs), alternative=layers)]
    logged = [run for run in runs if run.log]
    if logged:
        words = " ".join(f"{run.name}: {training_in_words(run.log)}" for run in logged)
        text = "Over training tokens, of the training batches (Figure 2 of ProSparse)."
        figure = plots.training_curves(logged)
        found.append(Section("Training", text, figure, alternative=words))
    shifted = [run for run in runs if run.candidates]
    if shifted:
        text = (
            "Each line goes through the candidates of one run; the increase is over its own t = 0."
        )
        figure = plots.threshold_curves(shifted)
        found.append(Section("Thresholds", text, figure, candidate_grid(shifted)))
    named = tuple((run.name, run.activity) for run in runs if run.activity is not None)
    if named:
        text = "Mean over layers, all data sets together."
        figure, grid = union_curves(named), union_grid(named)
        found.append(Section("What several tokens need together", text, figure, grid))
    return found


def overview_grid(runs: Sequence[ComparedRun]) -> Grid:
    """Return a row for each run: what it is, its sparsity and perplexities, the best marked."""
    names = data_names(runs)
    rows = [
        (
            run.name,
            activation_text(run.activation) if run.activation else UNKNOWN,
            percent(run.sparsity),
            *(
                with_error(m.perplexity, m.perplexity_stderr)
                if (m := run.measure(name))
                else UNKNOWN
                for name in names
            ),
            compact_count(run.training.num_tokens) if run.training else UNKNOWN,
        )
        for run in runs
    ]
    best = {(max(range(len(runs)), key=lambda row: runs[row].sparsity), 2)}
    for column, name in enumerate(names, start=3):
        if compares(runs, name):
            perplexities = [m.perplexity for run in runs if (m := run.measure(name))]
            best.add((perplexities.index(min(perplexities)), column))
    header = ("run", "activation", "sparsity", *(f"ppl {name}" for name in names), "trained on")
    return Grid(header, tuple(rows), num_text_columns=2, best=frozenset(best))


def data_set_grid(runs: Sequence[ComparedRun]) -> Grid:
    """Return sparsity by data set, a row for each run; a run may lack some data sets."""
    names = data_names(runs)
    return Grid(
        ("", "mixed", *names),
        tuple(
            (
                run.name,
                percent(run.sparsity),
                *(percent(m.sparsity) if (m := run.measure(n)) else UNKNOWN for n in names),
            )
            for run in runs
        ),
    )


def candidate_grid(runs: Sequence[ComparedRun]) -> Grid:
    """Return every run's threshold candidates."""
    rows = []
    for run in runs:
        for candidate in run.candidates:
            threshold, sparsity, *_, cost, inside = threshold_row(candidate)
            told = "chosen" if candidate == run.chosen else inside
            rows.append((run.name, told, threshold, sparsity, cost))
    return Grid(
        ("run", "verdict", "t", "sparsity", "ppl increase"), tuple(rows), num_text_columns=2
    )


def _unshared_text(names: Sequence[str], shared: Sequence[str]) -> str:
    unshared = [name for name in names if name not in shared]
    if not unshared:
        return ""
    return f"Not measured alike in all runs, so not to be compared: {', '.join(unshared)}."


def _provenance_grid(runs: Sequence[ComparedRun]) -> Grid:
    def context(run: ComparedRun) -> str:
        return UNKNOWN if run.context_length is None else f"{run.context_length:,} tokens"

    rows = [
        ("kind", *(run.kind for run in runs)),
        ("model", *(run.model for run in runs)),
        ("device", *(run.provenance.device for run in runs)),
        ("measured in windows of", *(context(run) for run in runs)),
        ("dtype", *(run.dtype for run in runs)),
        ("seed", *(str(run.provenance.seed) for run in runs)),
        ("torch", *(run.provenance.packages.get("torch", UNKNOWN) for run in runs)),
        ("date", *(run.provenance.date for run in runs)),
        ("command", *(run.provenance.command for run in runs)),
        ("git commit", *(run.provenance.git_commit or UNKNOWN for run in runs)),
    ]
    header = ("", *(run.name for run in runs))
    return Grid(header, tuple(rows), num_text_columns=len(header))
