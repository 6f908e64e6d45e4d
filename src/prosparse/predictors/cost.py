# SPDX-License-Identifier: Apache-2.0
"""The measured time of an FFN behind a predictor, as it is in a decode.

One token goes through the FFNs of all layers, one after another, so that each finds its weights where a
decode finds them, and not in a cache where the last call left them. Times of a layer are medians over
tokens. D = d_model, F = d_ff.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.ops import sparse_ffn
from prosparse.kernels.predicted import predicted_ffn
from prosparse.model.activation import DReLU, FATReLU, ShiftedReLU

if TYPE_CHECKING:
    from prosparse.model.ffn import FFN
    from prosparse.predictors.predictor import Predictor

NUM_TOKENS = 24
NUM_WARM_UPS = 2


class FFNTimer:
    """Times the FFNs of a model.

    Args:
        ffns: Of a ReLU model, without biases.
        inputs: Of each layer, float16 [>= NUM_TOKENS, D]: what the FFNs are given.
    """

    def __init__(self, ffns: Sequence[FFN], inputs: Sequence[Tensor]) -> None:
        self._weights = [neuron_major(ffn) for ffn in ffns]
        gates = [weights.gate_proj for weights in self._weights]
        self._inputs = [
            x[:NUM_TOKENS].to(gate.device, gate.dtype)
            for x, gate in zip(inputs, gates, strict=True)
        ]

    def exact_us(self) -> list[float]:
        """Return the microseconds of each layer's exact sparse FFN."""
        return self._us(lambda layer, x: sparse_ffn(x, self._weights[layer], weights_ready=True))

    def predicted_us(self, predictors: Sequence[Predictor]) -> list[float]:
        """Return the microseconds of each layer's FFN behind its predictor, which reads its input."""
        parts = [
            (p.fc1.to(x).contiguous(), p.fc2.T.to(x).contiguous(), p.cut)
            for p, x in zip(predictors, self._inputs, strict=True)
        ]
        return self._us(
            lambda layer, x: predicted_ffn(
                x, self._weights[layer], *parts[layer], weights_ready=True
            )
        )

    @torch.no_grad()
    def _us(self, run: Callable[[int, Tensor], Tensor]) -> list[float]:
        device = self._inputs[0].device
        times: list[list[float]] = [[] for _ in self._weights]
        for token in range(-NUM_WARM_UPS, NUM_TOKENS):
            moments = [_moment(device)]
            for layer, x in enumerate(self._inputs):
                run(layer, x[max(token, 0)][None])
                moments.append(_moment(device))
            steps = _steps_us(moments, device)
            if token >= 0:
                for of_layer, step in zip(times, steps, strict=True):
                    of_layer.append(step)
        return [statistics.median(of_layer) for of_layer in times]


def neuron_major(ffn: FFN) -> FFNWeights:
    """Return the weights of an FFN as the operators read them; the down projection is a copy."""
    weights = {name: weight.detach() for name, weight in ffn.weights().items()}
    gate = weights.get("gate_proj", weights["up_proj"])
    activation = ffn.activation
    number = getattr(activation, "param", None) or 0.0
    return FFNWeights(
        gate_proj=gate.contiguous(),
        up_proj=weights["up_proj"].contiguous() if ffn.is_gated else None,
        down_projT=weights["down_proj"].T.contiguous(),
        threshold=number if isinstance(activation, FATReLU) else 0.0,
        shift=number if isinstance(activation, ShiftedReLU) else 0.0,
        up_relu=isinstance(activation, DReLU),
    )


def _moment(device: torch.device) -> float | torch.cuda.Event:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _steps_us(moments: Sequence[float | torch.cuda.Event], device: torch.device) -> list[float]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    steps = []
    for start, end in zip(moments, moments[1:], strict=False):
        if isinstance(start, float):
            assert isinstance(end, float)
            steps.append(1e6 * (end - start))
        else:
            assert isinstance(end, torch.cuda.Event)
            steps.append(1e3 * start.elapsed_time(end))
    return steps
