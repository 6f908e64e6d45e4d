# SPDX-License-Identifier: Apache-2.0
"""Who takes part in step (1) alone: the gate, dense whatever is active, read in order.

On a CPU it shows what the kernels reach of the bandwidth before rows are skipped; on a GPU nobody runs
it by itself.
"""

from __future__ import annotations

import functools

import torch.nn.functional as F
from torch import Tensor

from prosparse.benchmarking import reference
from prosparse.benchmarking.entry import Contender
from prosparse.benchmarking.layers import Layer
from prosparse.kernels.backend import Backend, implementation
from prosparse.kernels.ffn_weights import FFNWeights


def gate_contenders(backend: Backend) -> list[Contender]:
    """Return torch's own gate and that of a backend, both followed by ReLU."""
    return [
        Contender(
            "torch, dense",
            "gate",
            lambda layer: functools.partial(_dense_gate, layer.x, layer.gate_proj),
            reference.gate,
            _num_bytes,
            is_dense=True,
        ),
        Contender(
            f"gate, {backend}",
            "gate",
            lambda layer: functools.partial(_gate, layer.x, layer.gate_proj),
            reference.gate,
            _num_bytes,
            backend,
        ),
    ]


def _dense_gate(x: Tensor, gate_proj: Tensor) -> Tensor:
    return F.linear(x, gate_proj).relu_()


def _gate(x: Tensor, gate_proj: Tensor) -> Tensor:
    return implementation(x.device).gate_up(x, FFNWeights(gate_proj, None, gate_proj))


def _num_bytes(layer: Layer) -> float:
    return layer.gate_proj.numel() * layer.gate_proj.element_size()
