# SPDX-License-Identifier: Apache-2.0
"""What the screen rules out is inactive, for every input."""

import pytest
import torch

from prosparse.kernels.quantize import dequantize
from prosparse.kernels.reference import activate
from prosparse.kernels.screen import candidates, certain_below, make_screen
from tests.kernels.cases import DTYPES

D, F = 128, 200


def gate_of(kind: str) -> torch.Tensor:
    torch.manual_seed(0)
    gate = torch.randn(F, D) / D**0.5
    if kind == "heavy-tailed":
        gate = gate / torch.rand(F, D).clamp_min(1e-3)
    if kind == "outlier":
        gate[:, 7] *= 300
    if kind == "tiny":
        gate = gate * 1e-6
    return gate


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["normal", "heavy-tailed", "outlier", "tiny"])
def test_no_active_neuron_is_ruled_out(kind, threshold, dtype):
    gate = gate_of(kind).to(dtype)
    screen = make_screen(gate)
    # Random inputs, and the worst: along what quantization took from each row, both ways.
    error = gate.float() - dequantize(screen.values, screen.scales)
    worst = torch.nn.functional.normalize(error, dim=1) * 8
    x = torch.cat([torch.randn(300, D), worst, -worst]).to(dtype)
    pre = (x.double() @ gate.double().T).to(dtype)
    active = activate(pre, threshold) != 0
    assert not (active & ~candidates(x, screen, threshold)).any()


def test_it_rules_out_most_of_what_is_inactive():
    gate = gate_of("normal").bfloat16()
    x = torch.randn(64, D).bfloat16()
    active = (x.float() @ gate.float().T) > 1.2
    found = candidates(x, make_screen(gate), 1.2)
    assert active.float().mean() < found.float().mean() < 1.5 * active.float().mean()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.3, 1.0])
def test_what_is_certainly_below_rounds_to_inactive(threshold, dtype):
    cut = certain_below(threshold, dtype)
    assert not activate(torch.tensor(cut).to(dtype), threshold)
    above = torch.nextafter(torch.tensor(cut).to(dtype), torch.tensor(torch.inf, dtype=dtype))
    assert activate(above, threshold)


def test_nan_is_never_ruled_out():
    x = torch.randn(1, D).bfloat16()
    x[0, 3] = torch.nan
    assert candidates(x, make_screen(gate_of("normal").bfloat16())).all()


def test_a_width_without_whole_groups_is_refused():
    with pytest.raises(ValueError, match="64"):
        make_screen(torch.randn(8, 96))
