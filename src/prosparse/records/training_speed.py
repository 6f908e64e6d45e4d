# SPDX-License-Identifier: Apache-2.0
"""What the L1 norm and the counts cost in training: the result of `prosparse bench train`.

A time stands in a record only if the result it belongs to was checked and right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance
from prosparse.records.speed import NotRun, SpeedLimit


@dataclass(frozen=True, slots=True)
class TrainSpeedRow:
    """One way to compute an FFN forward and backward, or the elementwise part of it."""

    part: Literal["ffn", "elementwise"]
    contender: str
    ms: float | None
    """Median milliseconds of forward and backward; None when a result was wrong."""
    ms_p10: float | None
    ms_p90: float | None
    over_baseline: float | None
    """Its time over that of the baseline in the same round, less 1; the median over the rounds."""
    over_baseline_p10: float | None
    over_baseline_p90: float | None
    peak_gib: float | None
    """Most GPU memory in use at once, beyond inputs, weights and the gradient of the output, in GiB
    (2^30 bytes); None on a CPU."""
    error: float
    """Largest ||out - ref|| / ||ref|| of an output or a gradient, before and after timing."""
    error_bound: float
    l1_error: float | None
    """Relative error of the L1 norm; None where it is not computed."""
    count_error: float | None
    """Relative error of the number of active entries."""
    l1_bound: float
    count_bound: float
    """0 for the elementwise part. In a whole FFN a gate within rounding of zero may be either."""
    limit_ms: float | None = None
    """Of the elementwise part: the time of its passes over T x d_ff at the measured bandwidth."""

    @property
    def is_wrong(self) -> bool:
        """Whether a result missed its bound."""
        return not (
            self.error <= self.error_bound
            and (self.l1_error is None or self.l1_error <= self.l1_bound)
            and (self.count_error is None or self.count_error <= self.count_bound)
        )


@dataclass(frozen=True, slots=True)
class TrainSpeedRecord:
    """The result of `prosparse bench train`."""

    model: str
    """Name of the shape: random weights, and no model."""
    d_model: int
    d_ff: int
    num_tokens: int
    """In one forward and backward pass."""
    dtype: str
    sparsity: float
    """Share of zeros in x_1; with random weights about a half. Nothing timed depends on it."""
    baseline: str
    """The contender that `over_baseline` compares with."""
    limit: SpeedLimit
    rows: tuple[TrainSpeedRow, ...]
    not_run: tuple[NotRun, ...]
    num_warmups: int
    num_repeats: int
    """Rounds; in each every contender runs once."""
    method: str
    clocks: dict[str, str]
    """As the driver read them right after the last measurement; empty where it has none."""
    seconds: float
    provenance: Provenance
    kind: Literal["bench_train"] = "bench_train"

    @property
    def gemm_flops(self) -> int:
        """Floating-point operations of the nine matrix products of one pass."""
        return 9 * 2 * self.num_tokens * self.d_model * self.d_ff

    def row(self, part: str, contender: str) -> TrainSpeedRow | None:
        """Return a row by its names, if it is there."""
        found = [r for r in self.rows if (r.part, r.contender) == (part, contender)]
        return found[0] if found else None
