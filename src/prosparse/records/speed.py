# SPDX-License-Identifier: Apache-2.0
"""How fast the sparse operators are, and what hardware allows: the result of `prosparse bench ops`.

A time stands in a record only if the result it belongs to was checked and right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance


@dataclass(frozen=True, slots=True)
class LimitPoint:
    """One measured launch that only reads."""

    mb: float
    """MB (10^6 bytes) read."""
    us: float
    """Microseconds."""


@dataclass(frozen=True, slots=True)
class SpeedLimit:
    """What one launch that reads X MB costs at least on the device: launch_us + us_per_mb * X."""

    method: str
    """How it was measured."""
    launch_us: float
    us_per_mb: float
    points: tuple[LimitPoint, ...]

    def us(self, mb: float) -> float:
        """Return the least time of one launch that reads `mb` MB, in microseconds."""
        return self.launch_us + self.us_per_mb * mb


@dataclass(frozen=True, slots=True)
class BenchedShape:
    """One FFN shape of an operator benchmark."""

    name: str
    d_model: int
    d_ff: int
    num_copies: int
    """Copies of the weights, all different; each is used once in a replay."""


@dataclass(frozen=True, slots=True)
class OpsRow:
    """One contender at one step, mask and number of tokens."""

    shape: str
    """Name of the shape."""
    step: Literal["gate", "up", "down", "ffn"]
    """`gate` is step 1 of Section 3.3 (on a CPU), `up` step 2, `down` step 3, `ffn` the whole FFN."""
    contender: str
    is_dense: bool
    """Reads all weights whatever the mask: a baseline."""
    is_compiled: bool
    """A dense baseline made by torch.compile."""
    num_tokens: int
    mask: str
    """`random`, `clustered` or the name of a file with real activations."""
    sparsity: float
    """Share of inactive neurons that the mask was made with, for each token, in [0, 1]."""
    union: float
    """Share of neurons that at least one of the tokens needs, in [0, 1]."""
    mb: float
    """MB of weights that must be read: the rows of the union, all of the gate, ..."""
    us: float | None
    """Median microseconds of one call; None when the result was wrong."""
    us_p10: float | None
    us_p90: float | None
    error: float
    """Largest ||out - ref|| / ||ref|| over the copies, before and after timing."""
    error_bound: float
    limit_us: float
    """The least time of one launch that reads `mb`."""
    speedup: float | None = None
    """Time of the plain dense baseline of the same step and tokens over this; None without one."""
    speedup_compiled: float | None = None
    """The same over the compiled dense FFN."""
    weight_bits: int | None = None
    """Bits of quantized weights, which are another FFN than the dense one; None for the dtype's own."""

    @property
    def is_wrong(self) -> bool:
        """Whether the result missed its error bound."""
        return not self.error <= self.error_bound

    @property
    def gb_per_second(self) -> float | None:
        """Weights read over time."""
        return None if self.us is None else 1e3 * self.mb / self.us

    @property
    def limit_share(self) -> float | None:
        """Share of the limit that was reached, in [0, 1] but for noise."""
        return None if self.us is None else self.limit_us / self.us


@dataclass(frozen=True, slots=True)
class NotRun:
    """A contender that cannot run here."""

    contender: str
    reason: str
    is_failure: bool = False
    """It should have run and raised an error."""


@dataclass(frozen=True, slots=True)
class OpsSpeedRecord:
    """The result of `prosparse bench ops`."""

    model: str
    """The shapes by name: an operator benchmark has weights of a size, and no model."""
    shapes: tuple[BenchedShape, ...]
    dtype: str
    limit: SpeedLimit
    rows: tuple[OpsRow, ...]
    not_run: tuple[NotRun, ...]
    num_warmups: int
    num_repeats: int
    """Timed replays; the time of a row is their median."""
    method: str
    """How calls were timed, in a sentence."""
    clocks: dict[str, str]
    """As the driver read them right after the last measurement; empty where it has none."""
    seconds: float
    provenance: Provenance
    kind: Literal["bench_ops"] = "bench_ops"
