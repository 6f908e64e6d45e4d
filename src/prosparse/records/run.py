# SPDX-License-Identifier: Apache-2.0
"""What a training run and a whole line (relufy, train, threshold) did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from prosparse.records.provenance import Provenance
from prosparse.records.sparsity import Activation, DataMeasure
from prosparse.records.threshold import ThresholdRecord


@dataclass(frozen=True, slots=True)
class RelufyRecord:
    """The result of `prosparse relufy`: which activation became which."""

    model: str
    replaced: Activation
    activation: Activation
    num_layers: int
    d_model: int
    d_ff: int
    provenance: Provenance
    kind: Literal["relufy"] = "relufy"


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage of the regularization schedule as it was run (Algorithm 1 of ProSparse)."""

    name: str
    """`stage 0`, `stage 1`, ... or the recipe's own name for it."""
    first_step: int
    """First optimizer step of the stage, counted from 1."""
    last_step: int
    start_factor: float
    """lambda where the stage begins."""
    end_factor: float
    """lambda at `last_step`, the stage's peak."""
    end_coefficient: float
    """c = lambda * kappa at `last_step`: what multiplies mean-over-tokens, sum-over-layers L1."""
    end_tokens: int
    """Training tokens seen when the stage ends, from the start of the run."""


@dataclass(frozen=True, slots=True)
class Milestone:
    """One row of the demo's table: the model measured at one point of the line."""

    label: str
    """`original`, `ReLU, untrained`, `stage 0`, ..., `threshold 0.02`."""
    activation: Activation
    step: int
    """Optimizer steps done."""
    factor: float
    """lambda at this point."""
    tokens_seen: int
    """Training tokens seen so far."""
    sparsity: float
    """Mean over all measured tokens, then over layers, in [0, 1]."""
    layer_sparsity: tuple[float, ...]
    data: tuple[DataMeasure, ...]


@dataclass(frozen=True, slots=True)
class TrainRecord:
    """The result of `prosparse train`. The curve itself is in `log.jsonl` beside the record."""

    model: str
    recipe: dict[str, Any]
    """The recipe as it was run, every default filled in."""
    activation: Activation
    stages: tuple[StageRecord, ...]
    milestones: tuple[Milestone, ...]
    num_steps: int
    num_tokens: int
    tokens_per_step: int
    seconds: float
    """Wall-clock time spent in optimizer steps, over all the parts of an interrupted run."""
    tokens_per_second: float
    precision: str
    """`float32` or `bfloat16` (autocast over float32 master weights)."""
    provenance: Provenance
    kind: Literal["train"] = "train"


@dataclass(frozen=True, slots=True)
class Sample:
    """A text that the finished model wrote."""

    prompt: str
    text: str
    seconds: float
    """From loading the model to the last token."""


@dataclass(frozen=True, slots=True)
class SparsifyRecord:
    """The result of `prosparse sparsify`: the whole line on one model."""

    model: str
    milestones: tuple[Milestone, ...]
    training: TrainRecord
    threshold: ThresholdRecord
    sample: Sample | None
    seconds: float
    """Wall-clock time of the line, over all its parts; a killed part counts to its last milestone."""
    provenance: Provenance
    kind: Literal["sparsify"] = "sparsify"
