# SPDX-License-Identifier: Apache-2.0
"""How fast whole training steps are: the result of `prosparse bench train-step`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance


@dataclass(frozen=True, slots=True)
class TrainStepRecord:
    """Steps of a model of random weights on random tokens, by the code of `prosparse train`."""

    model: str
    """Name of the shape."""
    num_layers: int
    num_parameters: int
    num_devices: int
    sharding: Literal["none", "full"]
    gradient_checkpointing: bool
    compiled: bool
    precision: str
    """Of matrix products."""
    context_length: int
    """Tokens of a sample."""
    micro_batch_size: int
    gradient_accumulation: int
    num_warmups: int
    """Steps before those that are timed."""
    step_seconds: tuple[float, ...]
    """Of each timed step, on the main process: from its log line to that of the step before."""
    tokens_per_second: float
    """Of one device, in the median step."""
    flops_per_token: int
    """6 N + 12 L D S, see `prosparse.benchmarking.peak`."""
    peak_flops: float | None
    """Of one device for dense bfloat16 products, a second, by its maker; None where not known."""
    mfu: float | None
    """tokens_per_second * flops_per_token / peak_flops, in [0, 1]."""
    peak_gib: float | None
    """Most memory allocated at once on the main process' GPU, in GiB (2^30 bytes); None on a CPU."""
    first_loss: float
    """Of the first step, in nats: near ln(vocabulary), which random weights must give."""
    last_loss: float
    sparsity: float
    """Of the last step: share of zeros in x_1."""
    method: str
    seconds: float
    provenance: Provenance
    kind: Literal["bench_train_step"] = "bench_train_step"
