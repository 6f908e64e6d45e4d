# SPDX-License-Identifier: Apache-2.0
"""FATReLU keeps ties in every dtype, shifted ReLU subtracts, and names are checked."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from prosparse.errors import UserError
from prosparse.model.activation import (
    FATReLU,
    ShiftedReLU,
    ThresholdedSiLU,
    build_activation,
    make_activation,
)
from prosparse.records.sparsity import Activation

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# 0.017 is above its bfloat16, 0.01 below; 0.03 and 0.1 are above their float16.
THRESHOLDS = [0.005, 0.01, 0.017, 0.02, 0.03, 0.1, 1.0]
inputs = hnp.arrays("float32", st.integers(1, 20), elements=st.floats(width=32)).map(torch.tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_tie_is_kept_and_the_next_number_below_is_not(threshold, dtype):
    tie = torch.tensor(threshold, dtype=dtype)
    below = torch.nextafter(tie, torch.tensor(-1, dtype=dtype))
    above = torch.nextafter(tie, torch.tensor(2, dtype=dtype))
    out = FATReLU(threshold)(torch.stack([below, tie, above]))
    assert out.dtype == dtype
    assert out.tolist() == [0, tie.item(), above.item()]


@pytest.mark.parametrize("threshold", [0.017, 0.01])
def test_a_compiled_comparison_is_with_the_rounded_threshold(threshold):
    torch.compiler.reset()  # or the second threshold would be an input of the first graph
    constants = []

    def look(graph, _inputs):
        constants.extend(
            node.args[1]
            for node in graph.graph.nodes
            if getattr(node.target, "__name__", "") == "lt"
        )
        return graph.forward

    torch.compile(FATReLU(threshold), backend=look, fullgraph=True)(
        torch.ones(4, dtype=torch.bfloat16)
    )
    # Compilers widen bfloat16 to float32 before they compare.
    assert constants == [torch.tensor(threshold, dtype=torch.bfloat16).item()]


@given(inputs)
def test_threshold_zero_is_relu(x):
    assert torch.equal(FATReLU(0.0)(x).nan_to_num(nan=-1), torch.relu(x).nan_to_num(nan=-1))


@given(inputs, st.floats(0, 1e3))
def test_fatrelu_is_equation_3(x, threshold):
    t = torch.tensor(threshold, dtype=x.dtype)
    expected = [v if math.isnan(v) or v >= t else 0.0 for v in x.tolist()]
    assert torch.equal(FATReLU(threshold)(x).nan_to_num(7), torch.tensor(expected).nan_to_num(7))


@given(inputs, st.floats(0, 1e3))
def test_shifted_relu_is_relu_of_the_difference(x, bias):
    expected = (x - bias).clamp(min=0)
    assert torch.equal(ShiftedReLU(bias)(x).nan_to_num(-1), expected.nan_to_num(-1))


@pytest.mark.parametrize("module", [FATReLU(0.5), ShiftedReLU(0.5)], ids=["fat", "shifted"])
def test_special_numbers(module):
    out = module(torch.tensor([math.nan, math.inf, -math.inf]))
    assert out[0].isnan()
    assert out[1:].tolist() == [math.inf, 0]


def test_gradients_pass_where_the_input_passed():
    x = torch.tensor([-1.0, 0.4, 0.5, 2.0], requires_grad=True)
    FATReLU(0.5)(x).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("cls", [FATReLU, ShiftedReLU])
def test_a_number_that_was_never_filled_in_is_an_error_and_not_a_guess(cls):
    with pytest.raises(RuntimeError, match="has no hidden_act_param"):
        cls()(torch.ones(1))


def test_modules_are_copied_and_built_on_the_meta_device():
    with torch.device("meta"):
        module = FATReLU()
        module.param = 0.25
    assert copy.deepcopy(module)(torch.tensor([0.25, 0.2])).tolist() == [0.25, 0]
    assert repr(module) == "FATReLU(threshold=0.25)"
    assert repr(ShiftedReLU(0.5)) == "ShiftedReLU(bias=0.5)"


@pytest.mark.parametrize(
    ("name", "numbers", "expected"),
    [
        ("relu", {}, Activation("relu")),
        ("fatrelu", {"threshold": 0.01}, Activation("fatrelu", 0.01)),
        ("fatrelu", {"threshold": 0}, Activation("fatrelu", 0.0)),
        ("shifted-relu", {"bias": 1}, Activation("shifted_relu", 1.0)),
        ("shifted_relu", {"bias": 1}, Activation("shifted_relu", 1.0)),
    ],
)
def test_names_and_numbers_that_fit(name, numbers, expected):
    assert make_activation(name, **numbers) == expected


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        (
            "gelu",
            {},
            "Unknown activation 'gelu'; choose one of relu, fatrelu, shifted-relu, drelu, "
            "thresholded-silu.",
        ),
        ("relu", {"bias": 0.1}, "--bias 0.1 does not apply to relu."),
        ("relu", {"threshold": 0.1}, "--threshold 0.1 does not apply to relu."),
        ("fatrelu", {"bias": 0.1}, "--bias 0.1 does not apply to fatrelu."),
        ("shifted-relu", {"threshold": 0.1}, "--threshold 0.1 does not apply to shifted-relu."),
        ("fatrelu", {}, "fatrelu needs --threshold, a number >= 0."),
        ("shifted-relu", {}, "shifted-relu needs --bias, a number >= 0."),
        ("fatrelu", {"threshold": -1}, "--threshold must be a finite number >= 0; found -1."),
        (
            "fatrelu",
            {"threshold": math.nan},
            "--threshold must be a finite number >= 0; found nan.",
        ),
        ("shifted-relu", {"bias": math.inf}, "--bias must be a finite number >= 0; found inf."),
    ],
)
def test_names_and_numbers_that_do_not_fit(name, numbers, message):
    with pytest.raises(UserError) as caught:
        make_activation(name, **numbers)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("activation", "cls"),
    [
        (Activation("relu"), nn.ReLU),
        (Activation("fatrelu", 0.5), FATReLU),
        (Activation("shifted_relu", 0.5), ShiftedReLU),
    ],
)
def test_build_makes_a_fresh_module(activation, cls):
    module = build_activation(activation.name, activation.param)
    assert type(module) is cls
    assert module is not build_activation(activation.name, activation.param)
    assert getattr(module, "param", None) == activation.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_thresholded_silu_keeps_what_is_above_in_magnitude(dtype):
    x = torch.tensor([-3.0, -0.5, 0.0, 0.1, 1.5, float("nan")], dtype=dtype)
    silu = torch.nn.functional.silu(x)
    t = silu[1].abs().item()  # a tie, which CATS cuts
    found = ThresholdedSiLU(t)(x)
    expected = torch.where(silu.abs() <= silu[1].abs(), 0, silu)
    assert torch.equal(found[:-1], expected[:-1])
    assert found[1] == 0
    assert found[0] == 0  # silu(-3) = -0.14
    assert found[4] != 0
    assert found[-1].isnan()
