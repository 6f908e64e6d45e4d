# SPDX-License-Identifier: Apache-2.0
"""FFNs to try every backend on, and the bar that its results must pass."""

import pytest
import torch

from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.quantize import dequantize, quantize

DTYPES = [
    pytest.param(torch.float32, id="fp32"),
    pytest.param(torch.float16, id="fp16"),
    pytest.param(torch.bfloat16, id="bf16"),
]


def random_weights(
    D, F, dtype=torch.float32, bits=None, biases=False, group=32, **options
) -> FFNWeights:
    torch.manual_seed(42)
    gate, up, down = (torch.randn(F, D) / D**0.5 for _ in range(3))
    if biases:
        options["gate_bias"], options["up_bias"] = torch.randn(2, F).to(dtype)
        options["down_bias"] = torch.randn(D).to(dtype)
    if bits is None:
        return FFNWeights(gate.to(dtype), up.to(dtype), down.to(dtype), **options)
    (gate, s), (up, s1), (down, s2) = (quantize(weight, bits, group) for weight in (gate, up, down))
    return FFNWeights(gate, up, down, gate_scales=s, up_scales=s1, down_scales=s2, **options)


def relative_error(found, expected) -> float:
    difference = (found.double() - expected.double()).square().mean().sqrt()
    return (difference / expected.double().square().mean().sqrt()).item()


def exact_x1(x, weights, active):
    """x_1 in float64, of the neurons that `active` [T, F] says."""

    def linear(weight, scales, bias):
        y = x.double() @ dequantize(weight, scales).double().T
        return y if bias is None else y + bias.double()

    x1 = linear(weights.gate_proj, weights.gate_scales, weights.gate_bias) - weights.shift
    if weights.up_proj is not None:
        up = linear(weights.up_proj, weights.up_scales, weights.up_bias)
        x1 = x1 * (up.relu() if weights.up_relu else up)
    return x1.masked_fill(~active, 0)


def exact_y(x1, weights, residual=None):
    y = x1 @ dequantize(weights.down_projT, weights.down_scales).double()
    y = y if weights.down_bias is None else y + weights.down_bias.double()
    return y if residual is None else y + residual.double()


def check(dtype, found, expected, exact):
    """`found` has the zeros of the reference, and its accuracy: at most twice its error."""
    assert found.dtype == expected.dtype
    assert torch.equal(found == 0, expected == 0)
    if dtype == torch.float32:
        assert relative_error(found, exact) <= 1e-6
    else:
        assert relative_error(found, exact) <= 2 * relative_error(expected, exact)


CASES = {
    "relu": {},
    "one-token": {"T": 1},
    "sixteen-tokens": {"T": 16, "D": 133},
    "several-column-blocks": {"T": 1, "D": 261, "F": 131},
    "more-blocks-than-pieces": {"D": 133, "F": 301},
    "one-column": {"D": 1, "F": 5},
    "fatrelu": {"threshold": 0.3},
    "biases": {"biases": True},
    "shift": {"shift": 0.125, "biases": True},
    "drelu": {"up_relu": True, "biases": True},
    "int8": {"bits": 8, "D": 96, "threshold": 0.2},
    "int8-sixteen": {"bits": 8, "D": 160, "T": 16, "biases": True, "up_relu": True},
    "int4": {"bits": 4, "D": 96, "T": 1},
    "int4-biases": {"bits": 4, "D": 160, "biases": True},
}
