# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from prosparse.benchmarking import reference
from prosparse.benchmarking.contenders import contenders
from prosparse.benchmarking.layers import make_layers, set_mask
from prosparse.benchmarking.masks import Mask
from prosparse.benchmarking.reference import ERROR_BOUND, relative_error
from prosparse.model.shapes import Shape


def test_errors_by_hand():
    ref = torch.tensor([[3.0, 4.0]])
    assert relative_error(ref, ref) == 0
    assert relative_error(torch.tensor([[3.0, 4.5]]), ref) == pytest.approx(0.1)
    assert relative_error(torch.tensor([[3.0, math.nan]]), ref) == math.inf
    assert relative_error(torch.tensor([3.0, 4.0]), ref) == math.inf
    assert relative_error(torch.zeros(1, 2), torch.zeros(1, 2)) == 0
    assert relative_error(ref, torch.zeros(1, 2)) == math.inf


@pytest.fixture(scope="module")
def layer():
    layers = make_layers(Shape("tiny", 128, 512), 1, torch.bfloat16, torch.device("cpu"), seed=0)
    set_mask(layers, Mask("random"), 2, 0.5, seed=1)
    return layers[0]


def test_every_contender_is_within_the_bound_that_a_lost_neuron_breaks(layer):
    bound = ERROR_BOUND[torch.bfloat16]
    for contender in contenders(torch.device("cpu"), ("reference",)):
        assert relative_error(contender.build(layer)(), contender.reference(layer)) < bound
    full = reference.whole_ffn(layer)
    lost = layer.gate_proj.clone()
    lost[layer.mask.any(dim=0).nonzero()[0]] *= -1
    without = reference.ffn(layer.x, lost, layer.up_proj, layer.down_projT)
    assert relative_error(without, full) > 2 * bound


def test_bytes_by_hand(layer):
    by_name = {
        (c.step, c.name): c.num_bytes(layer)
        for c in contenders(torch.device("cpu"), ("reference",))
    }
    matrix = 2 * 128 * 512
    union = float(layer.mask.any(dim=0).float().mean())
    assert by_name["ffn", "sparse_ffn, reference"] == pytest.approx((1 + 2 * union) * matrix)
    assert by_name["up", "sparse_up, reference"] == pytest.approx(union * matrix)
    screened = by_name["ffn", "screened_ffn, reference"]
    perfect = matrix / 2 * (1 + 2 / 64) + 3 * union * matrix
    assert perfect <= screened <= perfect + 0.2 * matrix  # it must verify some rows in vain
    dense = [v for (step, name), v in by_name.items() if "dense" in name and step == "ffn"]
    assert dense == [3 * matrix]
    assert by_name["ffn", "sparse_ffn, int8 weights, reference"] == pytest.approx(
        (1 + 2 * union) * matrix / 2 * (1 + 2 / 64), rel=0.02
    )
