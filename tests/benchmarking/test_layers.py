# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from prosparse.benchmarking.layers import make_layers, set_mask
from prosparse.benchmarking.masks import Mask
from prosparse.kernels import reference
from prosparse.model.shapes import Shape

SHAPE = Shape("tiny", 96, 320)
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["random", "clustered"])
def test_the_real_gate_product_has_exactly_the_mask(dtype, tokens, sparsity, kind):
    layers = make_layers(SHAPE, 2, dtype, CPU, seed=0)
    came_true, union = set_mask(layers, Mask(kind), tokens, sparsity, seed=3)

    for layer in layers:
        gate = layer.x.float() @ layer.gate_proj.float().T
        assert torch.equal(gate.to(dtype).relu() != 0, layer.mask)
        assert torch.equal(layer.x1 != 0, layer.mask)
        assert torch.equal(layer.gate_pre, gate.to(dtype))
        assert torch.equal(layer.down_proj.T, layer.down_projT)
    assert came_true == pytest.approx(sparsity, abs=0.5 / SHAPE.d_ff)
    assert 1 - came_true <= union + 1e-6 <= 1 + 1e-6


def test_x1_is_that_of_the_reference_operators():
    layers = make_layers(SHAPE, 1, torch.float32, CPU, seed=0)
    set_mask(layers, Mask("random"), 2, 0.8, seed=3)
    (layer,) = layers
    expected = reference.sparse_up(layer.gate_pre, layer.x, layer.up_proj)
    torch.testing.assert_close(layer.x1, expected)


def test_the_pre_activations_keep_their_distribution():
    """Planting hands the values out anew; how many lie near the cut is what nature gave."""
    layers = make_layers(SHAPE, 1, torch.float32, CPU, seed=0)
    set_mask(layers, Mask("random"), 1, 0.9, seed=3)
    pre = layers[0].gate_pre.flatten()
    natural_std = 0.02 * layers[0].x.norm()
    assert float(pre.std()) == pytest.approx(float(natural_std), rel=0.2)
    normal = torch.distributions.Normal(0, natural_std).icdf(torch.tensor(0.9))
    assert float(pre.mean()) == pytest.approx(-float(normal), abs=0.3 * float(natural_std))


def test_a_new_mask_brings_new_inputs_and_keeps_up_and_down():
    layers = make_layers(SHAPE, 1, torch.float32, CPU, seed=0)
    set_mask(layers, Mask("random"), 1, 0.9, seed=3)
    before = [layers[0].x.clone(), layers[0].gate_proj.clone(), layers[0].up_proj.clone()]
    made = layers[0].keep("a", lambda: object())
    set_mask(layers, Mask("random"), 1, 0.9, seed=4)
    assert not torch.equal(before[0], layers[0].x)
    assert not torch.equal(before[1], layers[0].gate_proj)
    assert torch.equal(before[2], layers[0].up_proj)
    assert layers[0].keep("a", lambda: object()) is made
