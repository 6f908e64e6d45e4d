# SPDX-License-Identifier: Apache-2.0
"""How fast a decode is, sparse beside dense: the result of `prosparse bench decode`.

A time stands in a record only if the result it belongs to was checked and right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance
from prosparse.records.speed import NotRun, SpeedLimit


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """How the greedy tokens of a contender compare with those of the dense model."""

    num_tokens: int
    """Tokens judged."""
    first_difference: int | None
    """Index of the first token that is not the dense decode's; None when all are equal."""
    margin: float
    """Largest preference of the dense model's logits, on the contender's own text, for another
    token than the one it chose; 0 when the texts are equal."""
    bound: float
    """Margins up to this are rounding; `DecodeSpeedRecord.bound_method` says how it was found."""

    @property
    def is_wrong(self) -> bool:
        """Whether a token was chosen that rounding cannot explain."""
        return not self.margin <= self.bound


@dataclass(frozen=True, slots=True)
class ExactnessCheck:
    """How a sparse decode compares with the dense one on the same text, before it is timed."""

    kind: str
    """`sparse`, `screened`: what the names of its contenders begin with."""
    num_tokens: int
    """Tokens of the dense model's own text that were fed one by one."""
    logit_difference: float
    """Largest absolute difference of a logit from the dense model's."""
    logit_bound: float
    """Differences up to this are rounding."""
    num_neurons: int
    """Neurons compared: FFN neurons of all layers and tokens, each side given the same input."""
    num_differing: int
    """Neurons that were zero on one side only."""
    farthest: float
    """How far the farthest of them is on the wrong side of its threshold, by its float64 sum, over
    how far rounding a float32 sum can put it there; 0 where float64 agrees with the sparse side."""

    @property
    def is_wrong(self) -> bool:
        """Whether a logit or a zero differs by more than rounding."""
        return not (self.logit_difference <= self.logit_bound and self.farthest <= 1)


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One way to decode, one token at a time."""

    contender: str
    is_dense: bool
    is_stock: bool
    """Made of stock transformers and torch parts alone."""
    check: TokenCheck
    ms: float | None
    """Median milliseconds for a token; None when its tokens, logits or zeros were wrong."""
    ms_p10: float | None
    ms_p90: float | None
    mb: float
    """MB of weights that a token must read, at the measured sparsity."""
    attention_ms: float | None = None
    """What a step without FFNs loses when its attention is left out too; None if not taken apart."""
    rest_ms: float | None = None
    """A step with neither: norms, residuals, embedding, head."""
    speedup: float | None = None
    """Time of the fastest dense contender over this one."""
    is_approximate: bool = False
    """Goes by predictors: it may decode other tokens, and `PredictedDecode` says what it misses."""

    @property
    def is_wrong(self) -> bool:
        """Whether it did not compute what the dense model computes."""
        return self.ms is None

    @property
    def tokens_per_second(self) -> float | None:
        """1000 / ms."""
        return None if self.ms is None else 1e3 / self.ms

    @property
    def ffn_ms(self) -> float | None:
        """What is neither attention nor rest."""
        if self.ms is None or self.attention_ms is None or self.rest_ms is None:
            return None
        return self.ms - self.attention_ms - self.rest_ms


@dataclass(frozen=True, slots=True)
class PredictedDecode:
    """What predictors do on the new tokens of the dense model's own text; shares in [0, 1]."""

    predictors: str
    """The folder they came from."""
    recall: float
    """Share of active neurons that are predicted active, mean over layers."""
    predicted_sparsity: float
    """Share of neurons that are predicted inactive, mean over layers."""
    sparsity: float
    """True share of inactive neurons on the same tokens, mean over layers."""
    missed: float
    """Share of the FFN outputs' norm that is missed, mean over layers."""
    predictor_mb: float
    """MB of the predictors themselves."""
    logit_difference: float
    """Largest absolute difference of a logit from the dense model's, on its text."""


@dataclass(frozen=True, slots=True)
class DecodeSpeedRecord:
    """The result of `prosparse bench decode`."""

    model: str
    """The checkpoint, or the name of a shape with random weights."""
    is_random: bool
    """Random weights, with thresholds set for `asked_sparsity`."""
    num_layers: int
    d_model: int
    d_ff: int
    dtype: str
    prompt_tokens: int
    new_tokens: int
    asked_sparsity: float | None
    sparsity: float
    """Share of inactive neurons over the decoded tokens, mean over layers, in [0, 1]."""
    layer_sparsity: tuple[float, ...]
    dense_mb: float
    """MB of weights that a dense step reads for a token."""
    ffn_mb: float
    """The part of `dense_mb` that is FFN."""
    limit: SpeedLimit
    rows: tuple[DecodeRow, ...]
    not_run: tuple[NotRun, ...]
    num_repeats: int
    breakdown: str
    """How attention, FFN and rest were told apart, in a sentence."""
    clocks: dict[str, str]
    seconds: float
    provenance: Provenance
    exactness: tuple[ExactnessCheck, ...] = ()
    """One for each kind of sparse contender."""
    bound_method: str = ""
    """How far rounding may move a logit and how that was found, in a sentence."""
    weight_bits: int | None = None
    """Of quantized FFN weights; None for the dtype's own."""
    predicted: PredictedDecode | None = None
    """None where no predictors took part."""
    kind: Literal["bench_decode"] = "bench_decode"

    @property
    def fastest_dense(self) -> DecodeRow | None:
        """The dense contender that everything is compared with."""
        timed = [row for row in self.rows if row.is_dense and row.ms is not None]
        return min(timed, key=lambda row: row.ms or 0.0, default=None)

    @property
    def fastest_sparse(self) -> DecodeRow | None:
        """The fastest contender that uses sparsity and is exact."""
        timed = [
            row
            for row in self.rows
            if not (row.is_dense or row.is_approximate) and row.ms is not None
        ]
        return min(timed, key=lambda row: row.ms or 0.0, default=None)

    @property
    def fastest_predicted(self) -> DecodeRow | None:
        """The fastest contender that goes by predictors."""
        timed = [row for row in self.rows if row.is_approximate and row.ms is not None]
        return min(timed, key=lambda row: row.ms or 0.0, default=None)
