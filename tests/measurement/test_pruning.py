# SPDX-License-Identifier: Apache-2.0
"""Weak neurons are exact zeros in x_1, and only inside the block."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, Phi3Config, Phi3ForCausalLM

import prosparse as ps
from prosparse.measurement.pruning import (
    column_norms,
    keep_top,
    prune_below,
    prune_contributions,
    top_k,
)
from prosparse.model.ffn import ffns
from prosparse.model.tap import tap
from tests.measurement.activations import intermediates

IDS = torch.arange(1, 25)[None]  # token 0 is padding: its embedding is zero


@pytest.fixture
def model(checkpoint):
    return ps.load(checkpoint)


def first_layer(model, ids=IDS):
    """Return act(gate) and x_1 of the first layer, whose input no pruning changes."""
    seen = {}
    mlp = model.model.layers[0].mlp
    handles = [
        mlp.act_fn.register_forward_hook(lambda _m, _a, out: seen.update(act=out)),
        mlp.down_proj.register_forward_pre_hook(lambda _m, args: seen.update(x1=args[0])),
    ]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return seen["act"], seen["x1"]


def test_one_threshold_for_the_gate(model):
    act, x1 = first_layer(model)
    epsilon = act.abs().flatten().sort().values[500].item()  # a tie: it is kept
    with prune_below(ffns(model), epsilon):
        _, pruned = first_layer(model)
    assert torch.equal(pruned, torch.where(act.abs() >= epsilon, x1, 0.0))
    assert (pruned == 0).sum() == 500
    assert torch.equal(first_layer(model)[1], x1)


@pytest.mark.parametrize(("share", "k"), [(1.0, 48), (0.5, 24), (0.1, 5), (0.001, 1)])
def test_every_token_keeps_k_of_every_layer(model, share, k):
    with keep_top(ffns(model), share):
        layers = intermediates(model, IDS)
    assert all(torch.equal((x1 != 0).sum(-1), torch.full((1, 24), k)) for x1 in layers)


@given(st.data())
def test_top_k_keeps_k_of_the_largest(data):
    num_neurons = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, num_neurons))
    # Few different magnitudes: ties are the rule.
    row = data.draw(
        st.lists(st.integers(1, 4), min_size=num_neurons, max_size=num_neurons).map(torch.tensor)
    )
    kept = top_k(-row.float()[None], k)[0]
    assert (kept != 0).sum() == k
    assert kept.abs().sort(descending=True).values[:k].tolist() == sorted(row.tolist())[::-1][:k]
    assert all(b in (0, -a) for a, b in zip(row.tolist(), kept.tolist(), strict=True))


def test_what_adds_little_to_the_output_goes(model):
    _, x1 = first_layer(model)
    norms = model.model.layers[0].mlp.down_proj.weight.norm(dim=0)
    sizes = x1.abs() * norms
    threshold = sizes.flatten().sort().values[700].item()
    with prune_contributions(ffns(model), [threshold, 0.0]):
        pruned, second = intermediates(model, IDS)
    assert torch.equal(pruned, torch.where(sizes >= threshold, x1, 0.0))
    assert (second != 0).all()  # a threshold of zero prunes nothing


def test_a_neuron_whose_column_is_zero_goes_first(model):
    model.model.layers[0].mlp.down_proj.weight.data[:, 3] = 0
    with prune_contributions(ffns(model), [1e-30, 1e-30]):
        pruned, _ = intermediates(model, IDS)
    assert (pruned[..., 3] == 0).all()
    assert (pruned[..., 4] != 0).all()


def test_the_block_leaves_nothing_behind_after_a_failure(model):
    for block in (prune_below(ffns(model), 1.0), keep_top(ffns(model), 0.5)):
        with pytest.raises(KeyError), block:
            raise KeyError
    with pytest.raises(KeyError), prune_contributions(ffns(model), [1.0, 1.0]):
        raise KeyError
    for ffn in ffns(model):
        assert not ffn.activation._forward_hooks
        assert not ffn.down._forward_pre_hooks


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_inner=24))


def phi3():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    return Phi3ForCausalLM(Phi3Config(vocab_size=64, **sizes, **heads))


@pytest.mark.parametrize("build", [gpt2, phi3])
def test_plain_and_fused_ffns(build):
    torch.manual_seed(0)
    model = build().eval()
    active = {}

    def observe(layer, x1):
        active[layer] = (x1 != 0).sum(-1).unique().tolist()

    with torch.no_grad(), keep_top(ffns(model), 0.25), tap(ffns(model), observe):
        model(IDS)
    assert active == {0: [6], 1: [6]}
    assert column_norms(ffns(model)[0]).shape == (24,)
