# SPDX-License-Identifier: Apache-2.0
"""The pages on predictors; importing this makes `headline`, `tiles` and `sections` know them."""

from __future__ import annotations

from typing import Any

from prosparse.records.predictor import PredictorEvalRecord, PredictorFitRecord
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import compact_number, duration, increase, percent, with_error
from prosparse.reporting.section import Section
from prosparse.reporting.sections import sections
from prosparse.reporting.summary import Tile, headline, tiles

NOT_TIMED = "–"
PREDICTOR_NOTES = [
    "Recall is the share of truly active neurons that are predicted active; predicted sparsity the share "
    "of all neurons that are predicted inactive; both are means over layers (Appendix C of ProSparse). "
    "Missed is the norm of what is wrongly left out of an FFN's output over the norm of the output, "
    "as a mean over tokens or of all tokens together, whichever is more, each layer judged on the inputs that "
    "it has in the model as it is.",
]


@headline.register
def _(record: PredictorFitRecord) -> str:
    found = (
        f"Predictors of rank {_range([layer.chosen.rank for layer in record.layers])} find "
        f"{percent(record.mean('recall'))} of the active neurons and predict "
        f"{percent(record.mean('predicted_sparsity'))} inactive where {percent(record.sparsity)} are; "
        f"they miss {percent(record.mean('missed'))} of the FFN outputs. The SVD starts, made in "
        f"{duration(record.start_seconds)}, predict "
        f"{percent(record.mean('predicted_sparsity', 'start'))} inactive at the same recall."
    )
    return found


@headline.register
def _(record: PredictorEvalRecord) -> str:
    cost = increase(record.perplexity_increase, record.perplexity_increase_stderr)
    return (
        f"The predictors find {percent(record.mean('recall'))} of the active neurons and predict "
        f"{percent(record.mean('predicted_sparsity'))} inactive where "
        f"{percent(record.mean('sparsity'))} are; skipping those changes perplexity by {cost}."
    )


@tiles.register
def _(record: PredictorFitRecord) -> list[Tile]:
    return [
        (percent(record.mean("recall")), "activation recall"),
        (percent(record.mean("predicted_sparsity")), "predicted sparsity"),
        (percent(record.sparsity), "true sparsity"),
        (percent(record.mean("missed")), "of the FFN outputs missed"),
    ]


@tiles.register
def _(record: PredictorEvalRecord) -> list[Tile]:
    return [
        (percent(record.mean("recall")), "activation recall"),
        (percent(record.mean("predicted_sparsity")), "predicted sparsity"),
        (percent(record.mean("sparsity")), "true sparsity"),
        (increase(record.perplexity_increase), "perplexity with predictors"),
    ]


@sections.register
def _(record: PredictorFitRecord, log: list[dict[str, Any]]) -> list[Section]:
    timed = "" if record.exact_us is None else (
        f" An exact sparse FFN takes {record.exact_us:.1f} us in the same passes, one token."
    )  # fmt: skip
    start = (
        "The whitened SVD of the gate at the same rank, no training, at the cut that has the trained "
        "predictor's recall."
    )
    return [
        Section("Mean over layers", record.choice + timed, grid=fit_summary_grid(record)),
        Section("Layer by layer", grid=fit_grid(record)),
        Section("Before training", start, grid=start_grid(record)),
    ]


@sections.register
def _(record: PredictorEvalRecord, log: list[dict[str, Any]]) -> list[Section]:
    return [
        Section(
            "Perplexity",
            "The model as it is, and with predicted-inactive neurons skipped in all layers.",
            grid=perplexity_grid(record),
        ),
        Section("Layer by layer", grid=eval_layer_grid(record)),
    ]


def fit_grid(record: PredictorFitRecord) -> Grid:
    """Return what was chosen for each layer."""
    rows = []
    for layer, found in enumerate(record.layers):
        point = found.chosen
        rows.append(
            (
                f"{layer}",
                f"{point.rank}",
                compact_number(point.cut),
                percent(point.recall),
                percent(point.predicted_sparsity),
                percent(found.sparsity),
                percent(point.missed),
                NOT_TIMED if point.us is None else f"{point.us:.1f}",
                f"{found.epochs}",
            )
        )
    header = (
        "layer", "rank", "cut", "recall", "predicted sparsity", "true sparsity", "missed", "us",
        "epochs",
    )  # fmt: skip
    return Grid(header, tuple(rows))


def fit_summary_grid(record: PredictorFitRecord) -> Grid:
    """Return the means over layers, the start beside them."""
    header = (
        "rank", "sparsity", "recall", "predicted sparsity", "missed", "predicted by SVD",
        "missed by SVD", "SVD made in", "FFN, us", "exact FFN, us",
    )  # fmt: skip
    is_timed = record.exact_us is not None and all(
        layer.chosen.us is not None for layer in record.layers
    )
    row = (
        _range([layer.chosen.rank for layer in record.layers]),
        percent(record.sparsity),
        percent(record.mean("recall")),
        percent(record.mean("predicted_sparsity")),
        percent(record.mean("missed")),
        percent(record.mean("predicted_sparsity", "start")),
        percent(record.mean("missed", "start")),
        duration(record.start_seconds),
        f"{record.mean('us'):.1f}" if is_timed else NOT_TIMED,
        NOT_TIMED if record.exact_us is None else f"{record.exact_us:.1f}",
    )
    return Grid(header, (row,), num_text_columns=0)


def start_grid(record: PredictorFitRecord) -> Grid:
    """Return the starts beside what training made of them."""
    rows = [
        (
            f"{layer}",
            percent(found.chosen.recall),
            percent(found.start.predicted_sparsity),
            percent(found.chosen.predicted_sparsity),
            percent(found.start.missed),
            percent(found.chosen.missed),
        )
        for layer, found in enumerate(record.layers)
    ]
    header = (
        "layer", "recall", "predicted by SVD", "predicted, trained", "missed by SVD",
        "missed, trained",
    )  # fmt: skip
    return Grid(header, tuple(rows))


def eval_grid(record: PredictorEvalRecord) -> Grid:
    """Return the means over layers, in the shape of Table 2."""
    header = ("sparsity", "activation recall", "predicted sparsity", "missed", "perplexity")
    row = (
        percent(record.mean("sparsity")),
        percent(record.mean("recall")),
        percent(record.mean("predicted_sparsity")),
        percent(record.mean("missed")),
        increase(record.perplexity_increase, record.perplexity_increase_stderr),
    )
    return Grid(header, (row,), num_text_columns=0)


def eval_layer_grid(record: PredictorEvalRecord) -> Grid:
    """Return what was measured of each layer."""
    rows = [
        (
            f"{layer}",
            f"{found.rank}",
            compact_number(found.cut),
            percent(found.recall),
            percent(found.predicted_sparsity),
            percent(found.sparsity),
            percent(found.missed),
        )
        for layer, found in enumerate(record.layers)
    ]
    header = ("layer", "rank", "cut", "recall", "predicted sparsity", "true sparsity", "missed")
    return Grid(header, tuple(rows))


def perplexity_grid(record: PredictorEvalRecord) -> Grid:
    """Return perplexity with and without predictors, by data set."""
    rows = [
        (
            dense.data,
            with_error(dense.perplexity, dense.perplexity_stderr),
            with_error(predicted.perplexity, predicted.perplexity_stderr),
            percent(dense.sparsity),
            f"{dense.num_tokens:,}",
        )
        for dense, predicted in zip(record.dense, record.predicted, strict=True)
    ]
    return Grid(("data set", "as it is", "predicted", "sparsity", "tokens"), tuple(rows))


def predictor_facts(record: PredictorFitRecord | PredictorEvalRecord) -> list[tuple[str, str]]:
    """Return how the numbers were made."""
    facts = [
        ("predictors read", record.reads),
        ("context length", f"{record.context_length:,} tokens"),
    ]
    if isinstance(record, PredictorEvalRecord):
        return [
            *facts,
            ("predictors", record.predictors),
            ("dtype", record.dtype),
            ("time", duration(record.seconds)),
        ]
    return [
        *facts,
        ("pairs", f"{record.num_rows:,} of {', '.join(record.data)}"),
        ("time to collect", duration(record.collect_seconds)),
        ("time of the SVD starts", duration(record.start_seconds)),
        ("time to train and choose", duration(record.fit_seconds)),
    ]


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"
