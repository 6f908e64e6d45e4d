# SPDX-License-Identifier: Apache-2.0
"""Speed records as rows of finished text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prosparse.reporting.grids import Grid, Row
from prosparse.reporting.numerals import percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.decode_speed import DecodeRow, DecodeSpeedRecord, TokenCheck
    from prosparse.records.speed import OpsRow, OpsSpeedRecord, SpeedLimit
    from prosparse.records.training_speed import TrainSpeedRecord

STEPS = {
    "gate": "step 1 (gate)",
    "up": "step 2 (up)",
    "down": "step 3 (down)",
    "ffn": "whole FFN",
}
NOTHING = "–"
H100_LIMIT = (2.35, 0.322)
"""us and us/MB, read in November 2026 with torch 2.11 and driver 580."""

OPS_HEADER: Row = (
    "contender", "step", "mask", "tokens", "sparsity", "us", "x dense", "x compiled", "limit us",
    "of limit", "MB", "GB/s", "p10 to p90", "error",
)  # fmt: skip
OPS_WIDTHS = (34, 4, 12, 6, 8, 8, 7, 10, 8, 8, 7, 6, 15, 8)

DECODE_HEADER: Row = (
    "contender", "tokens/s", "ms/token", "p10 to p90", "x dense", "MB/token", "GB/s", "attention",
    "FFN", "rest", "tokens checked",
)  # fmt: skip
DECODE_WIDTHS = (34, 9, 9, 15, 8, 9, 7, 9, 9, 9, 36)


def ops_row(row: OpsRow) -> Row:
    """Return one row's cells, in the order of `OPS_HEADER`; dense rows have no mask."""
    return (
        row.contender,
        row.step,
        NOTHING if row.is_dense else row.mask,
        str(row.num_tokens),
        NOTHING if row.is_dense else percent(row.sparsity, 1),
        "wrong" if row.us is None else _us(row.us),
        _times(row.speedup),
        _times(row.speedup_compiled),
        _us(row.limit_us),
        NOTHING if row.limit_share is None else percent(row.limit_share, 0),
        _mb(row.mb),
        NOTHING if row.gb_per_second is None else f"{row.gb_per_second:.0f}",
        _span(row.us_p10, row.us_p90, _us),
        f"{row.error:.1e}",
    )


def ops_grid(rows: Sequence[OpsRow]) -> Grid:
    """Return the rows of one step as a table; the number of tokens only where it changes."""
    dropped = {"step"} if len({row.num_tokens for row in rows}) > 1 else {"step", "tokens"}
    kept = [index for index, title in enumerate(OPS_HEADER) if title not in dropped]
    header, *cells = (
        tuple(cells[index] for index in kept) for cells in (OPS_HEADER, *map(ops_row, rows))
    )
    return Grid(header, tuple(cells))


def limit_text(limit: SpeedLimit) -> str:
    """Return the measured limit in words; that of a GPU beside the published one."""
    found = (
        f"{limit.launch_us:.2f} us + {limit.us_per_mb:.4f} us/MB for one launch, measured with "
        f"{limit.method}."
    )
    if "CUDA" not in limit.method:
        return found
    return (
        f"{found} An earlier reading on an NVIDIA H100 80GB HBM3 was "
        f"{H100_LIMIT[0]} us + {H100_LIMIT[1]} us/MB."
    )


def limit_grid(record: OpsSpeedRecord | DecodeSpeedRecord | TrainSpeedRecord) -> Grid:
    """Return the measured launches that only read, with the line through them."""
    limit = record.limit
    return Grid(
        ("MB read in one launch", "us", "the line says", "GB/s"),
        tuple(
            (f"{p.mb:.4g}", _us(p.us), _us(limit.us(p.mb)), f"{1e3 * p.mb / p.us:.0f}")
            for p in limit.points
        ),
        num_text_columns=0,
    )


def not_run_grid(record: OpsSpeedRecord | DecodeSpeedRecord | TrainSpeedRecord) -> Grid:
    """Return what could not run, with the reasons."""
    return Grid(
        ("not run", "because"),
        tuple((item.contender, item.reason) for item in record.not_run),
        num_text_columns=2,
    )


def decode_row(row: DecodeRow) -> Row:
    """Return one row's cells, in the order of `DECODE_HEADER`."""
    return (
        row.contender,
        NOTHING if row.tokens_per_second is None else f"{row.tokens_per_second:.1f}",
        "wrong" if row.ms is None else _ms(row.ms),
        _span(row.ms_p10, row.ms_p90, _ms),
        _times(row.speedup),
        _mb(row.mb),
        NOTHING if row.ms is None else f"{row.mb / row.ms:.0f}",
        *(_share(part, row.ms) for part in (row.attention_ms, row.ffn_ms, row.rest_ms)),
        check_text(row.check, row.is_approximate),
    )


def decode_grid(record: DecodeSpeedRecord) -> Grid:
    """Return a decode benchmark as a table, with the fastest sparse contender marked."""
    best = record.fastest_sparse
    marked = None if best is None else record.rows.index(best)
    return Grid(DECODE_HEADER, tuple(decode_row(row) for row in record.rows), marked)


def predicted_grid(record: DecodeSpeedRecord) -> Grid:
    """Return the fastest dense, exact and predicted decode side by side, in the shape of Table 2."""
    header = ("decode", "sparsity", "recall", "predicted sparsity", "missed", "tokens/s", "speedup")
    found = record.predicted
    rows = []
    for row in (record.fastest_dense, record.fastest_sparse, record.fastest_predicted):
        if row is None:
            continue
        shares = (NOTHING,) * 3
        if row.is_approximate and found is not None:
            shares = tuple(
                percent(share) for share in (found.recall, found.predicted_sparsity, found.missed)
            )
        speed = NOTHING if row.tokens_per_second is None else f"{row.tokens_per_second:.1f}"
        rows.append((row.contender, percent(record.sparsity), *shares, speed, _times(row.speedup)))
    return Grid(header, tuple(rows))


def check_text(check: TokenCheck, is_approximate: bool = False) -> str:
    """Return how the tokens compare with the dense ones, in a few words."""
    if check.first_difference is None:
        return f"{check.num_tokens} equal"
    if is_approximate:
        return f"{check.first_difference} of {check.num_tokens} equal, approximate"
    verdict = "WRONG" if check.is_wrong else "a tie"
    equal = f"{check.first_difference} of {check.num_tokens} equal"
    return f"{equal}, then {verdict} ({check.margin:.1g})"


def _mb(value: float) -> str:
    return f"{value:.3g}" if value < 10 else f"{value:.1f}"


def _us(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _ms(value: float) -> str:
    return f"{value:.3f}"


def _span(low: float | None, high: float | None, spoken: Callable[[float], str]) -> str:
    if low is None or high is None:
        return NOTHING
    return f"{spoken(low)} to {spoken(high)}"


def _times(factor: float | None) -> str:
    return NOTHING if factor is None else f"{factor:.2f}x"


def _share(part: float | None, whole: float | None) -> str:
    return NOTHING if part is None or whole is None else percent(part / whole, 0)
