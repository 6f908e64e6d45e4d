# SPDX-License-Identifier: Apache-2.0
"""The report on the cost of sparsity in training; importing this makes the page know it."""

from __future__ import annotations

from typing import Any

from prosparse.records.training_speed import TrainSpeedRecord, TrainSpeedRow
from prosparse.reporting.grids import Grid, Row
from prosparse.reporting.numerals import duration, listing, percent
from prosparse.reporting.section import Section
from prosparse.reporting.sections import sections
from prosparse.reporting.speed_grids import NOTHING, limit_grid, limit_text, not_run_grid
from prosparse.reporting.summary import Tile, headline, tiles

PARTS = {"ffn": "FFN, forward and backward", "elementwise": "The elementwise part alone"}
HEADER: Row = (
    "contender", "part", "ms", "p10 to p90", "over baseline", "p10 to p90", "peak GiB", "of limit",
    "error", "L1 error", "count error",
)  # fmt: skip
WIDTHS = (43, 11, 8, 16, 13, 18, 8, 8, 8, 8, 11)


def train_row(row: TrainSpeedRow) -> Row:
    """Return one row's cells, in the order of `HEADER`."""
    return (
        row.contender,
        row.part,
        "wrong" if row.is_wrong else NOTHING if row.ms is None else f"{row.ms:.3f}",
        NOTHING if row.ms_p10 is None else f"{row.ms_p10:.3f} to {row.ms_p90:.3f}",
        _over(row.over_baseline),
        NOTHING
        if row.over_baseline_p10 is None
        else f"{_over(row.over_baseline_p10)} to {_over(row.over_baseline_p90)}",
        NOTHING if row.peak_gib is None else f"{row.peak_gib:.2f}",
        NOTHING if row.limit_ms is None or not row.ms else percent(row.limit_ms / row.ms, 0),
        f"{row.error:.1e}",
        NOTHING if row.l1_error is None else f"{row.l1_error:.1e}",
        NOTHING if row.count_error is None else f"{row.count_error:.1e}",
    )


def train_grid(record: TrainSpeedRecord, part: str) -> Grid:
    """Return the rows of one part as a table."""
    rows = [train_row(row) for row in record.rows if row.part == part]
    return Grid(
        (HEADER[0], *HEADER[2:]),
        tuple((cells[0], *cells[2:]) for cells in rows),
    )


@headline.register
def _(record: TrainSpeedRecord) -> str:
    wrong = [f"{row.contender} ({row.part})" for row in record.rows if row.is_wrong]
    warning = f" WRONG, and so without a time: {listing(wrong)}." if wrong else ""
    fused, base = _fused(record), record.row("ffn", record.baseline)
    if fused is None or base is None or fused.over_baseline is None:
        return f"The fused FFN and the baseline were not both timed.{warning}"
    memory = ""
    if fused.peak_gib is not None and base.peak_gib is not None:
        memory = f", with peaks of {fused.peak_gib:.2f} GiB and {base.peak_gib:.2f} GiB"
    return (
        f"ReGLU with the L1 norm and the count, fused, takes {_over(fused.over_baseline)} time over "
        f"{record.baseline}: {fused.ms:.2f} ms and {base.ms:.2f} ms for one FFN, forward and "
        f"backward over {record.num_tokens:,} tokens{memory}.{warning}"
    )


@tiles.register
def _(record: TrainSpeedRecord) -> list[Tile]:
    fused = _fused(record)
    gemms = next((row for row in record.rows if "GEMMs" in row.contender), None)
    found = []
    if fused is not None and fused.over_baseline is not None:
        found.append((_over(fused.over_baseline), f"time over {record.baseline}"))
    if fused is not None and fused.peak_gib is not None:
        found.append((f"{fused.peak_gib:.2f} GiB", "peak memory of the fused FFN"))
    if gemms is not None and gemms.ms:
        speed = 1e-9 * record.gemm_flops / gemms.ms
        found.append((f"{speed:.3g} TFLOP/s", gemms.contender))
    return found


@sections.register
def _(record: TrainSpeedRecord, log: list[dict[str, Any]]) -> list[Section]:
    found = [
        Section(title, f"Baseline: {record.baseline}.", grid=train_grid(record, part))
        for part, title in PARTS.items()
    ]
    found.append(Section("The limit", limit_text(record.limit), grid=limit_grid(record)))
    if record.not_run:
        found.append(Section("Not run", grid=not_run_grid(record)))
    return found


def train_speed_facts(record: TrainSpeedRecord) -> list[tuple[str, str]]:
    """Return what belongs to such a record alone, as names and values."""
    facts = [
        ("dtype", record.dtype),
        ("size", f"{record.num_tokens:,} tokens, {record.d_model:,} -> {record.d_ff:,}"),
        ("zeros in x_1", percent(record.sparsity, 1)),
        ("repeats", f"{record.num_repeats} rounds after {record.num_warmups}, median"),
    ]
    if record.clocks:
        clocks = ", ".join(f"{name} {value}" for name, value in record.clocks.items())
        facts.append(("read after the last measurement", clocks))
    return [*facts, ("time", duration(record.seconds))]


def train_speed_notes(record: TrainSpeedRecord) -> list[str]:
    """Return what a reader must know of the numbers on the page."""
    return [
        record.method,
        "Every output and gradient was compared with float32 on the same inputs before and after "
        "timing, the L1 norm and the count too. A wrong one has no time.",
        "Peak memory is what one pass allocates at most beyond its inputs, weights and the gradient "
        "of its output; the gradients that it returns are in it.",
        "“of limit” compares the elementwise part with eight passes over T x d_ff at the measured "
        "read bandwidth: gate and up in, x_1 out; gate, up and its gradient in, two gradients out.",
    ]


def _fused(record: TrainSpeedRecord) -> TrainSpeedRow | None:
    """Return the fused FFN, run in the way of the baseline: compiled or eager."""
    way = record.baseline.rpartition(", ")[2]
    found = [r for r in record.rows if r.part == "ffn" and f"fused, {way}" in r.contender]
    return found[0] if found else None


def _over(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:+.1f} %"
