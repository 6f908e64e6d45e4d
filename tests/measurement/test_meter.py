# SPDX-License-Identifier: Apache-2.0
"""Sparsity is the share of exact zeros in what `down_proj` receives."""

import math

import pytest
import torch

import prosparse as ps
from prosparse.measurement.meter import SparsityMeter
from prosparse.model.ffn import ffns

CPU = torch.device("cpu")


@pytest.fixture
def model(relu_checkpoint):
    return ps.load(relu_checkpoint)


@torch.no_grad()
def counted_by_hand(model, ids) -> list[float]:
    """Return the share of zeros of each layer from the layers' own inputs."""
    shares = []
    residual = model.model(ids, output_hidden_states=True, use_cache=False)
    rotary = model.model.rotary_emb(residual.hidden_states[0], torch.arange(ids.shape[1])[None])
    for layer, hidden in zip(model.model.layers, residual.hidden_states, strict=False):
        attended, _ = layer.self_attn(
            hidden_states=layer.input_layernorm(hidden),
            position_embeddings=rotary,
            attention_mask=None,
        )
        x = layer.post_attention_layernorm(hidden + attended)
        intermediate = torch.relu(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)
        shares.append((intermediate == 0).double().mean().item())
    return shares


def watched(model, *batches) -> tuple[float, ...]:
    meter = SparsityMeter(ffns(model), CPU)
    with meter.watch(), torch.no_grad():
        for batch in batches:
            model(batch)
    return meter.layer_sparsity()


def test_it_is_what_a_count_by_hand_finds(model):
    ids = torch.arange(50)[None]
    found = watched(model, ids)
    assert found == pytest.approx(counted_by_hand(model, ids), abs=1e-12)
    assert all(0.3 < share < 0.7 for share in found)  # random gates are as often above as below


def test_every_token_counts_once_however_the_batches_fall(model):
    ids = torch.randint(257, (6, 8), generator=torch.Generator().manual_seed(0))
    whole = watched(model, ids)
    assert watched(model, ids[:1], ids[1:]) == pytest.approx(whole, abs=1e-12)
    assert watched(model, *ids.split(1)) == pytest.approx(whole, abs=1e-12)


def test_negative_entries_are_active(model):
    for ffn in ffns(model):
        ffn.module.up_proj.weight.data = -ffn.module.gate_proj.weight.data
    found = watched(model, torch.arange(50)[None])  # x_1 = -relu(gate)^2: never above zero
    assert all(0.3 < share < 0.7 for share in found)


@pytest.mark.parametrize("projection", ["gate_proj", "up_proj"])
def test_a_layer_of_zeros_has_sparsity_one(projection, model):
    getattr(model.model.layers[0].mlp, projection).weight.data.zero_()
    first, second = watched(model, torch.arange(10)[None])
    assert first == 1.0
    assert second < 1.0


def test_a_dense_model_has_sparsity_zero(checkpoint):
    ids = torch.arange(1, 51)[None]  # token 0 is padding: its embedding is zero, and so is x_1
    assert watched(ps.load(checkpoint), ids) == (0.0, 0.0)


def test_nothing_watched_is_no_number(model):
    meter = SparsityMeter(ffns(model), CPU)
    assert all(math.isnan(share) for share in meter.layer_sparsity())


def test_nothing_is_counted_outside_the_block(model):
    meter = SparsityMeter(ffns(model), CPU)
    with meter.watch(), torch.no_grad():
        model(torch.arange(10)[None])
    before = meter.layer_sparsity()
    with torch.no_grad():
        model(torch.arange(100, 150)[None])
    assert meter.layer_sparsity() == before
    assert not model.model.layers[0].mlp.down_proj._forward_pre_hooks
