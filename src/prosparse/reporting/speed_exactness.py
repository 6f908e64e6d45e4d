# SPDX-License-Identifier: Apache-2.0
"""How exact a sparse decode is, in one sentence and as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import compact_count, listing

if TYPE_CHECKING:
    from prosparse.records.decode_speed import DecodeSpeedRecord

HEADER = (
    "sparse decode", "tokens", "logits differ by", "allowed", "neurons compared",
    "on the other side of zero", "the farthest, of rounding",
)  # fmt: skip


def exactness_text(record: DecodeSpeedRecord) -> str:
    """Return the checks of all kinds in one sentence; empty where there were none."""
    checks = record.exactness
    if not checks:
        return ""
    wrong = [check.kind for check in checks if check.is_wrong]
    num_differing = sum(check.num_differing for check in checks)
    farthest = max(check.farthest for check in checks)
    judged = f" (by float64 at most {farthest:.2g} of what rounding explains)"
    ties = judged if num_differing else ""
    return (
        f"{f'NOT exact ({listing(wrong)})' if wrong else 'Exact'}: {checks[0].num_tokens} tokens, "
        f"logits within {max(check.logit_difference for check in checks):.2g} "
        f"({checks[0].logit_bound:.2g} allowed), {num_differing:,} of "
        f"{compact_count(sum(check.num_neurons for check in checks))} neurons on the other side of "
        f"zero{ties}."
    )


def exactness_grid(record: DecodeSpeedRecord) -> Grid:
    """Return one row for each kind of sparse contender."""
    return Grid(
        HEADER,
        tuple(
            (
                f"{check.kind}: WRONG" if check.is_wrong else check.kind,
                str(check.num_tokens),
                f"{check.logit_difference:.2g}",
                f"{check.logit_bound:.2g}",
                f"{check.num_neurons:,}",
                f"{check.num_differing:,}",
                f"{check.farthest:.2g}",
            )
            for check in record.exactness
        ),
    )
