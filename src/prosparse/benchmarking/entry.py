# SPDX-License-Identifier: Apache-2.0
"""One entry in the operator benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from prosparse.benchmarking.layers import Layer
from prosparse.benchmarking.timing import Call
from prosparse.kernels.backend import Backend


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to compute a step of the FFN."""

    name: str
    step: Literal["gate", "up", "down", "ffn"]
    build: Callable[[Layer], Call]
    """Prepare (not timed) what it needs of a copy; return the call that is timed."""
    reference: Callable[[Layer], Tensor]
    """float32; what the call must return."""
    num_bytes: Callable[[Layer], float]
    """Weights of one copy that it cannot do without."""
    backend: Backend | None = None
    """Backend of `prosparse.kernels` it runs on; None for torch's own operators."""
    is_dense: bool = False
    is_compiled: bool = False
    weight_bits: int | None = None
    """Of quantized weights; None for the dtype's own."""
    why_not: Callable[[Layer], str | None] = lambda layer: None
    """Why it cannot run on such a layer, in one sentence."""
