# SPDX-License-Identifier: Apache-2.0
"""What tells runs apart, in words: their settings, and how far their results are from each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from prosparse.reporting.compared_runs import ComparedRun, data_names
from prosparse.reporting.facts import activation_text
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import increase, listing, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prosparse.records.sparsity import DataMeasure

UNKNOWN = "–"
NOT_SETTINGS = ("out", "model")
"""Keys of a recipe that say nothing of a model, or that the record says better."""


def verdict(runs: Sequence[ComparedRun]) -> str:
    """Return which run is the sparsest, and which has the lowest perplexity where that compares."""
    sparsest = max(runs, key=lambda run: run.sparsity)
    found = (
        f"Of {len(runs)} runs {sparsest.name} is the sparsest: {percent(sparsest.sparsity, 1)} of its "
        "FFN activations are zero."
    )
    shared = [name for name in data_names(runs) if compares(runs, name)]
    if not shared:
        return f"{found} Their perplexities do not compare: no data set was measured alike in all."
    best: dict[str, list[str]] = {}
    for name in shared:
        winner = min(runs, key=lambda run: _measure(run, name).perplexity)
        best.setdefault(winner.name, []).append(name)
    lowest = [f"{run} on {listing(names)}" for run, names in best.items()]
    return f"{found} The lowest perplexity has {listing(lowest)}."


def compares(runs: Sequence[ComparedRun], name: str) -> bool:
    """Whether all runs were measured on the same tokens of a data set, in windows of one length."""
    measures = [run.measure(name) for run in runs]
    places = {(m.source, m.num_tokens) for m in measures if m is not None}
    return None not in measures and len(places) == len({run.context_length for run in runs}) == 1


def warnings(runs: Sequence[ComparedRun]) -> tuple[str, ...]:
    """Return a sentence for each difference in how the runs were measured or trained."""
    found = []
    for run in runs:
        missing = [name for name in data_names(runs) if run.measure(name) is None]
        if missing:
            found.append(f"{run.name} was not measured on {listing(missing)}.")
    for name in data_names(runs):
        measures = [(run.name, m) for run in runs if (m := run.measure(name)) is not None]
        found += _unlike(f"“{name}” was read from", [(r, m.source) for r, m in measures])
        tokens = [(r, f"{m.num_tokens:,}") for r, m in measures]
        found += _unlike(f"Tokens of “{name}”:", tokens)
    found += _unlike(
        "Windows of different length, so perplexities do not compare:",
        [(run.name, _number(run.context_length)) for run in runs],
    )
    found += _unlike("Forward passes in", [(run.name, run.dtype) for run in runs])
    trained = [(run.name, _number(run.training.num_tokens)) for run in runs if run.training]
    found += _unlike("Training tokens:", trained)
    found += _unlike("Kinds of record:", [(run.name, run.kind) for run in runs])
    return tuple(found)


def setting_grid(runs: Sequence[ComparedRun]) -> Grid | None:
    """Return what was not set alike, a column for each run; None when nothing differs."""
    rows: list[tuple[str, Callable[[ComparedRun], str]]] = [
        ("model", lambda run: run.model),
        ("activation", lambda run: activation_text(run.activation) if run.activation else UNKNOWN),
        ("device", lambda run: run.provenance.device),
        ("seed", lambda run: str(run.provenance.seed)),
        ("prosparse", lambda run: run.provenance.packages.get("prosparse", UNKNOWN)),
        ("torch", lambda run: run.provenance.packages.get("torch", UNKNOWN)),
        ("transformers", lambda run: run.provenance.packages.get("transformers", UNKNOWN)),
    ]
    values = [(name, [value(run) for run in runs]) for name, value in rows]
    recipes = [_flat(run.training.recipe) if run.training else {} for run in runs]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    if all(recipes):
        values += [
            (key, [str(recipe.get(key, UNKNOWN)) for recipe in recipes])
            for key in keys
            if key not in NOT_SETTINGS
        ]
    unlike = tuple((name, *row) for name, row in values if len(set(row)) > 1)
    if not unlike:
        return None
    header = ("setting", *(run.name for run in runs))
    return Grid(header, unlike, num_text_columns=len(header))


def differences(runs: Sequence[ComparedRun]) -> tuple[str, ...]:
    """Return a sentence for each run on how it differs from the first."""
    first = runs[0]
    return tuple(_difference(first, run) for run in runs[1:])


def _difference(first: ComparedRun, run: ComparedRun) -> str:
    points = 100 * (run.sparsity - first.sparsity)
    found = (
        f"{run.name} against {first.name}: {points:+.2f} points of sparsity "
        f"({percent(run.sparsity)} against {percent(first.sparsity)})"
    )
    shared = [name for name in data_names([first]) if compares((first, run), name)]
    if not shared:
        return f"{found}; perplexities do not compare."
    changes = [(name, _measure(first, name), _measure(run, name)) for name in shared]
    said = [
        f"{listing([_change(*change) for change in part])} ({what} two standard errors)"
        for what, part in (
            ("beyond", [c for c in changes if _is_beyond_error(*c[1:])]),
            ("within", [c for c in changes if not _is_beyond_error(*c[1:])]),
        )
        if part
    ]
    return f"{found}; perplexity {'; '.join(said)}."


def _change(name: str, before: DataMeasure, after: DataMeasure) -> str:
    return f"{increase(math.expm1(min(after.loss - before.loss, 700.0)))} on {name}"


def _is_beyond_error(before: DataMeasure, after: DataMeasure) -> bool:
    error = math.hypot(before.loss_stderr, after.loss_stderr)
    return abs(after.loss - before.loss) > 2 * error  # False where the error is not known


def _unlike(what: str, values: Sequence[tuple[str, str]]) -> list[str]:
    """Return a sentence with every run's value, or nothing when they are all alike."""
    by_value: dict[str, list[str]] = {}
    for run, value in values:
        by_value.setdefault(value, []).append(run)
    if len(by_value) < 2:
        return []
    return [f"{what} {listing([f'{v} in {listing(r)}' for v, r in by_value.items()])}."]


def _measure(run: ComparedRun, name: str) -> DataMeasure:
    found = run.measure(name)
    assert found is not None, name
    return found


def _number(value: int | None) -> str:
    return "an unknown number" if value is None else f"{value:,}"


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of a recipe by their dotted paths; None stands for a default."""
    if isinstance(tree, dict):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple) and any(isinstance(item, dict) for item in tree):
        items = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return {} if tree is None else {path: tree}
    return {
        name: leaf
        for key, value in items
        for name, leaf in _flat(value, f"{path}.{key}" if path else key).items()
    }
