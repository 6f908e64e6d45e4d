# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from prosparse.benchmarking.decode_model import (
    layer_sparsity,
    random_model,
    set_thresholds,
    traffic,
)
from prosparse.errors import UserError
from prosparse.model.ffn import ffns
from prosparse.model.shapes import Shape

CPU = torch.device("cpu")
TINY = Shape("tiny", 32, 96, 3, 4, 2, 128)


@pytest.fixture
def model():
    return random_model(TINY, None, torch.float32, CPU, seed=0)


def test_a_random_model_has_the_shape_and_the_dtype():
    model = random_model(TINY, 2, torch.bfloat16, CPU, seed=0)
    assert len(ffns(model)) == 2
    assert (ffns(model)[0].d_model, ffns(model)[0].d_ff) == (32, 96)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(UserError, match="--layers"):
        random_model(TINY, 0, torch.float32, CPU, seed=0)


@pytest.mark.parametrize("sparsity", [0.7, 0.9])
def test_thresholds_give_the_sparsity_in_every_layer(model, sparsity):
    thresholds = set_thresholds(model, sparsity, seed=0)
    assert len(thresholds) == 3
    assert all(threshold > 0 for threshold in thresholds)
    ids = torch.randint(128, (1, 256), generator=torch.Generator().manual_seed(9))
    for share in layer_sparsity(model, ids, 200):
        assert share == pytest.approx(sparsity, abs=0.03)


def test_a_sparsity_below_that_of_random_gates_is_refused(model):
    with pytest.raises(UserError, match="--sparsity 0.1 cannot be set in layer 0"):
        set_thresholds(model, 0.1, seed=0)


def test_sparsity_is_of_the_last_tokens_only(model):
    ids = torch.arange(10)[None]
    seen = []
    hook = ffns(model)[1].down.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    model(input_ids=ids)
    hook.remove()
    expected = float((seen[0][-4:] == 0).float().mean())
    assert layer_sparsity(model, ids, 4)[1] == pytest.approx(expected)


@pytest.mark.parametrize("tied", [False, True])
def test_traffic_by_hand(tied):
    shape = Shape("tiny", 32, 96, 3, 4, 2, 128, has_tied_embeddings=tied)
    weights = traffic(random_model(shape, None, torch.bfloat16, CPU, seed=0))
    matrix, attention, norms = 32 * 96, 2 * 32 * 32 + 2 * 32 * 16, 2 * 32
    layers = 3 * (3 * matrix + attention + norms)
    dense = 2 * (layers + 32 + 128 * 32)  # with the last norm and the head, tied or not
    assert weights.dense == pytest.approx(1e-6 * dense)
    assert weights.ffn == pytest.approx(1e-6 * 2 * 3 * 3 * matrix)
    skipped = 0.5 * 2 * 3 * 2 * matrix
    assert weights.sparse([0.4, 0.5, 0.6]) == pytest.approx(1e-6 * (dense - skipped))
    screened = dense - 2 * 9 * matrix + 3 * matrix + 0.5 * 2 * 9 * matrix
    assert weights.screened([0.5] * 3) == pytest.approx(1e-6 * screened)
