# SPDX-License-Identifier: Apache-2.0
"""What was exported, and for which engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance
from prosparse.records.sparsity import Activation


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """The result of `prosparse export`."""

    model: str
    to: str
    """`powerinfer` or `gguf`."""
    file: str
    """Name of the file, beside the record."""
    architecture: str
    """What the file calls its graph."""
    type: str
    """Of the FFN's matrices: `f32`, `f16` or `q4_0`."""
    num_bytes: int
    activation: Activation
    """Of the exported model."""
    unshifted_from: Activation | None
    """The activation that it had before its threshold was left out; None where nothing was."""
    predictors: str | None
    """The folder they came from."""
    sparse_threshold: float | None
    """What PowerInfer compares a predictor's logit with."""
    num_counted_tokens: int
    """Tokens behind the counts of how often neurons fire; 0 where none were made."""
    vram_bytes: int | None
    """Of the GPU index; None without one."""
    seconds: float
    provenance: Provenance
    kind: Literal["export"] = "export"
