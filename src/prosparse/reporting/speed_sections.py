# SPDX-License-Identifier: Apache-2.0
"""The parts of a report on a speed record; importing this makes `sections` know them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prosparse.records.decode_speed import DecodeSpeedRecord
from prosparse.records.speed import OpsRow, OpsSpeedRecord
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import percent
from prosparse.reporting.section import Section
from prosparse.reporting.sections import sections
from prosparse.reporting.speed_exactness import exactness_grid, exactness_text
from prosparse.reporting.speed_grids import (
    STEPS,
    decode_grid,
    limit_grid,
    limit_text,
    not_run_grid,
    ops_grid,
    predicted_grid,
)
from prosparse.reporting.speed_plots import (
    decode_parts,
    step_title,
    time_over_sparsity,
    time_over_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

Log = list[dict[str, Any]]

PREDICTED = (
    "The shape of Table 2 of ProSparse. Recall and predicted sparsity are means over layers on the new "
    "tokens of the dense model's own text; missed is the norm of what is wrongly left out of an FFN's "
    "output over the norm of the output. Decoding by predictors is approximate: its tokens may be others."
)


@sections.register
def _(record: OpsSpeedRecord, log: Log) -> list[Section]:
    parts = []
    for shape in record.shapes:
        size = f"d_model {shape.d_model:,}, d_ff {shape.d_ff:,}, {shape.num_copies} copies"
        for step in STEPS:
            rows = [r for r in record.rows if (r.shape, r.step) == (shape.name, step)]
            if rows:
                parts += _step_sections(shape.name, step, rows, size)
    return [*parts, *_limit_sections(record)]


@sections.register
def _(record: DecodeSpeedRecord, log: Log) -> list[Section]:
    layers = Grid(
        ("layer", "sparsity"),
        tuple((str(i), percent(share)) for i, share in enumerate(record.layer_sparsity)),
    )
    text = f"{exactness_text(record)} {record.bound_method}"
    exactness = [Section("Exactness", text, grid=exactness_grid(record))]
    predicted = [Section("Dense, exact, predicted", PREDICTED, grid=predicted_grid(record))]
    return [
        Section(
            "Tokens a second",
            record.breakdown,
            decode_parts(record) if any(row.ms is not None for row in record.rows) else "",
            decode_grid(record),
        ),
        *(predicted if record.predicted is not None else []),
        *(exactness if record.exactness else []),
        Section("Sparsity of the decoded tokens, by layer", grid=layers, is_folded=True),
        *_limit_sections(record),
    ]


def _step_sections(shape: str, step: str, rows: Sequence[OpsRow], size: str) -> list[Section]:
    first = rows[0].num_tokens
    swept = [row for row in rows if row.num_tokens == first]
    middle = {row.sparsity for row in rows if not row.is_dense and row.num_tokens != first}
    mask = next((row.mask for row in rows if not row.is_dense), "")
    batched = [
        row
        for row in rows
        if not row.is_compiled
        and (row.is_dense or (row.mask == mask and _is_near(row.sparsity, middle)))
    ]
    title = step_title(step)
    name = f"{shape}-{step}"
    tokens = "one token" if first == 1 else f"{first} tokens"
    found = [
        Section(
            f"{title}, {shape}",
            f"Time of one call at {tokens} ({size}).",
            figure=time_over_sparsity(swept, name),
            grid=ops_grid(swept),
        )
    ]
    if middle:
        share = " and ".join(percent(value, 1) for value in sorted(middle))
        text = f"Each token has its own active neurons, {share} of them inactive."
        figure = time_over_tokens(batched, f"{name}-tokens")
        rest = [row for row in rows if row.num_tokens != first]
        found.append(Section(f"{title}, {shape}, by tokens", text, figure, ops_grid(rest)))
    return found


def _is_near(share: float, others: set[float]) -> bool:
    # sparsities that came true differ in their last digits between numbers of tokens
    return any(abs(share - other) < 1e-6 for other in others)


def _limit_sections(record: OpsSpeedRecord | DecodeSpeedRecord) -> list[Section]:
    found = [
        Section(
            "The limit, measured on the spot", limit_text(record.limit), grid=limit_grid(record)
        )
    ]
    if record.not_run:
        found.append(Section("Not run", grid=not_run_grid(record)))
    return found
