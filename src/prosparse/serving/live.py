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

from prosparse.kernels.ops import MAX_TOKENS
from prosparse.serving.dense import gate_and_intermediate

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
        self._calls = Counter(
            "prosparse_ffn_calls",
            "Calls of an FFN, one for each layer and step, by the way that they went.",
            ["path"],
            registry=where,
        )
        self._num_calls = 0
        self._samples: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    def note(self, x: Tensor, is_sparse: bool, weights: Callable[[], FFNWeights]) -> None:
        """Take notice of a call.

        Args:
            x: [T, D], the FFN's input. Of more than 16 tokens the first 16 are looked at.
            is_sparse: Whether it went the sparse way; the dense one reads all weights.
            weights: Returns those of the FFN; asked for when the call is sampled.
        """
        self._calls.labels("sparse" if is_sparse else "dense").inc()
        self._num_calls += 1
        if self._num_calls % SAMPLE_EVERY or _is_captured(x):
            return
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
    gate, x1 = gate_and_intermediate(x, weights)
    idle = (gate == 0).all(dim=0).float().mean().item()
    num_matrices = 2 if weights.up_proj is None else 3
    return (x1 == 0).float().mean().item(), idle * (num_matrices - 1) / num_matrices


def _is_captured(x: Tensor) -> bool:
    """Whether a CUDA graph is being recorded, in which no number can be read back."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()
