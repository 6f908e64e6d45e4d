# SPDX-License-Identifier: Apache-2.0
"""What a server says at `/metrics` about its zeros, while it works.

The sparse operators return the FFN's output and count nothing. So one FFN call in `SAMPLE_EVERY` is
looked at: its gate and up are computed a second time, densely, and counted.
"""

from __future__ import annotations

import functools
from collections import deque
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from prosparse.kernels.ops import MAX_TOKENS
from prosparse.kernels.quantize import dequantize
from prosparse.kernels.reference import activate

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry
    from torch import Tensor

    from prosparse.kernels.ffn_weights import FFNWeights

# Prime, so that all layers have their turns; dense products in one call of so many cost under one percent.
SAMPLE_EVERY = 97
WINDOW = 256
"""Samples that the means are over."""


class LiveSparsity:
    """Counts FFN calls and samples their zeros.

    Args:
        registry: Where the metrics are found; None: that of the process.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        from prometheus_client import REGISTRY, Counter, Gauge

        where = REGISTRY if registry is None else registry
        # Of several processes, such as vLLM's, the one that wrote last.
        gauge = functools.partial(Gauge, registry=where, multiprocess_mode="mostrecent")
        self._sparsity = gauge(
            "prosparse_sparsity",
            "Share of zeros in the FFN intermediates, a mean over the sampled calls before.",
        )
        self._skipped = gauge(
            "prosparse_weights_skipped",
            "Share of the FFN weights that a call did not read, a mean over the sampled calls before.",
        )
        calls = Counter(
            "prosparse_ffn_calls",
            "Calls of an FFN, one for each layer and step, by the way that they went.",
            ["path"],
            registry=where,
        )
        self._counters = (calls.labels("dense"), calls.labels("sparse"))
        self._new_calls = [0, 0]
        self._samples: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    def note(self, x: Tensor, is_sparse: bool, weights: Callable[[], FFNWeights]) -> None:
        """Take notice of a call; what is counted is published when one is sampled.

        Args:
            x: [T, D], the FFN's input. Of more than 16 tokens the first 16 are looked at.
            is_sparse: Whether it goes the sparse way; the dense one reads all weights.
            weights: Returns those of the FFN; asked for when the call is sampled.
        """
        self._new_calls[is_sparse] += 1
        if sum(self._new_calls) < SAMPLE_EVERY or len(x) == 0 or _is_captured(x):
            return
        for counter, new in zip(self._counters, self._new_calls, strict=True):
            counter.inc(new)
        self._new_calls = [0, 0]
        sparsity, skipped = zeros(x[:MAX_TOKENS], weights())
        self._samples.append((sparsity, skipped if is_sparse else 0.0))
        for gauge, values in zip(
            (self._sparsity, self._skipped), zip(*self._samples, strict=True), strict=True
        ):
            gauge.set(sum(values) / len(values))


@functools.cache
def live() -> LiveSparsity:
    """Return what this process counts with."""
    return LiveSparsity()


@torch.no_grad()
def zeros(x: Tensor, weights: FFNWeights) -> tuple[float, float]:
    """Return what x [T, D] leaves at zero.

    Returns:
        The share of zeros in x_1 [T, F]; and that of the FFN's weights that no token needs: the rows of
        `up` and `down` of neurons whose gate is zero for all of them. The gate is always read.
    """

    def project(matrix: Tensor, scales: Tensor | None, bias: Tensor | None) -> Tensor:
        return linear(x, dequantize(matrix, scales).to(x.dtype), bias)

    gate = project(weights.gate_proj, weights.gate_scales, weights.gate_bias)
    gate = x1 = activate(gate, weights.threshold, weights.shift)
    if weights.up_proj is not None:
        up = project(weights.up_proj, weights.up_scales, weights.up_bias)
        x1 = gate * (torch.relu(up) if weights.up_relu else up)
    idle = (gate == 0).all(dim=0).float().mean().item()
    num_matrices = 2 if weights.up_proj is None else 3
    return (x1 == 0).float().mean().item(), idle * (num_matrices - 1) / num_matrices


def _is_captured(x: Tensor) -> bool:
    """Whether a CUDA graph is being recorded, in which no number can be read back."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()
