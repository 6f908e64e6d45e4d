# SPDX-License-Identifier: Apache-2.0
"""Which inputs go the sparse way, and that both ways give the same numbers."""

import pytest
import torch
from torch import nn

import prosparse as ps
from prosparse.model.activation import FATReLU
from prosparse.model.ffn import ffns
from prosparse.model.tap import tap
from tests.model.tiny import tiny_tokens
from tests.runtime.models import ACTIVATIONS, FAMILIES, logits, relu_model


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_same(family, activation, sparse_calls):
    model = relu_model(family, activation)
    expected = logits(model)
    with ps.accelerate(model, max_tokens=16):
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert sparse_calls == [12, 12]


def test_each_layer_has_its_own_threshold(sparse_calls):
    model = relu_model(activation=ACTIVATIONS[1])
    ffns(model)[1].activation.param = 0.4
    expected = logits(model)
    with ps.accelerate(model, max_tokens=16):
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
        ffns(model)[0].activation.param = 0.7
        changed = logits(model)
    assert not torch.allclose(changed, expected)
    torch.testing.assert_close(logits(model), changed, rtol=1e-5, atol=1e-5)
    assert len(sparse_calls) == 4


def test_biases_take_part():
    model = relu_model("llama", mlp_bias=True)
    expected = logits(model)
    with ps.accelerate(model, max_tokens=16):
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_only_up_to_max_tokens(sparse_calls):
    model = relu_model()
    with ps.accelerate(model, max_tokens=3):
        for count in (1, 3, 4, 16):
            logits(model, tiny_tokens(count, batch_size=1))
    assert sparse_calls == [1, 1, 3, 3]
    sparse_calls.clear()
    with ps.accelerate(model, max_tokens=16):
        logits(model, tiny_tokens(8, batch_size=2))
        logits(model, tiny_tokens(9, batch_size=2))
    assert sparse_calls == [16, 16]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("family", ["llama", "phi3", "opt", "gpt2"])
def test_compiles_to_one_graph(family, backend):
    torch._dynamo.reset()
    model = relu_model(family, ACTIVATIONS[1])
    tokens = tiny_tokens(1, batch_size=2)
    expected = logits(model, tokens)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    torch.testing.assert_close(logits(compiled, tokens), expected, rtol=1e-5, atol=1e-5)
    with ps.accelerate(model, max_tokens=16):
        torch.testing.assert_close(logits(compiled, tokens), expected, rtol=1e-5, atol=1e-5)


def test_what_was_compiled_before_notices():
    torch._dynamo.reset()
    model = relu_model()
    graphs = []
    compiled = torch.compile(
        model, fullgraph=True, dynamic=False, backend=lambda graph, _: graphs.append(graph) or graph
    )

    def num_operators():
        logits(compiled, tiny_tokens(1))
        nodes = graphs[-1].graph.nodes
        return sum("prosparse.sparse_ffn" in str(node.target) for node in nodes)

    assert num_operators() == 0
    with ps.accelerate(model, max_tokens=16):
        assert num_operators() == 2


def test_gradients_take_the_dense_path(sparse_calls):
    model = relu_model().train()
    tokens = tiny_tokens(4)

    def gradients():
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    expected = gradients()
    with ps.accelerate(model, max_tokens=16):
        found = gradients()
    assert not sparse_calls
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_frozen_model_needs_no_gradient(sparse_calls):
    model = relu_model().requires_grad_(False)
    with ps.accelerate(model, max_tokens=16):
        model(tiny_tokens(4))
    assert sparse_calls == [8, 8]


def test_autocast_takes_the_dense_path(sparse_calls):
    model = relu_model()
    with torch.autocast("cpu", torch.bfloat16):
        expected = logits(model)
        with ps.accelerate(model, max_tokens=16):
            torch.testing.assert_close(logits(model), expected)
    assert not sparse_calls


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dropout_after_the_ffn_stays(family, sparse_calls):
    model = relu_model(family, **({"resid_pdrop": 0.5} if family == "gpt2" else {})).train()
    tokens = tiny_tokens(4)
    torch.manual_seed(1)
    expected = logits(model, tokens)
    with ps.accelerate(model, max_tokens=16):
        torch.manual_seed(1)
        torch.testing.assert_close(logits(model, tokens), expected, rtol=1e-5, atol=1e-5)
    assert sparse_calls


def test_a_replaced_activation_takes_the_dense_path(sparse_calls):
    for family in ("llama", "opt"):
        model = relu_model(family)
        accelerated = ps.accelerate(model, max_tokens=16)
        for ffn in ffns(model):
            ffn.set_activation(FATReLU(0.3))
        found = logits(model)
        accelerated.remove()
        torch.testing.assert_close(logits(model), found)
    assert not sparse_calls


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_parts_still_work_alone(family, sparse_calls):
    model = relu_model(family)
    for ffn in ffns(model):
        x_1 = torch.randn(2, ffn.d_ff)
        with torch.no_grad():
            expected = ffn.activation(x_1), ffn.down(x_1)
            with ps.accelerate(model, max_tokens=16):
                assert torch.equal(ffn.activation(x_1), expected[0])
                torch.testing.assert_close(ffn.down(x_1), expected[1])
    assert not sparse_calls


@pytest.mark.parametrize("family", ["llama", "phi3", "opt", "gpt2"])
def test_what_is_tapped_is_what_the_dense_model_has(family, sparse_calls):
    def tapped():
        seen = {}
        with tap(ffns(model), seen.__setitem__):
            found = logits(model, tiny_tokens(4))
        return seen, found

    model = relu_model(family, ACTIVATIONS[1])
    expected, expected_logits = tapped()
    with ps.accelerate(model, max_tokens=16):
        seen, found = tapped()
        assert not sparse_calls
        logits(model, tiny_tokens(4))
        assert sparse_calls == [8, 8]
    assert seen.keys() == expected.keys() == {0, 1}
    for layer, x_1 in seen.items():
        torch.testing.assert_close(x_1, expected[layer], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected_logits, rtol=1e-5, atol=1e-5)


def test_a_tap_that_was_open_while_compiling_sees(sparse_calls):
    torch._dynamo.reset()
    model = relu_model()
    seen = []
    with (
        ps.accelerate(model, max_tokens=16),
        tap(ffns(model), lambda layer, x_1: seen.append(layer)),
    ):
        logits(torch.compile(model, backend="eager"), tiny_tokens(4))
    assert seen == [0, 1]


def test_new_weights_are_seen_at_once(sparse_calls):
    model, other = relu_model(seed=0), relu_model(seed=1)
    with ps.accelerate(model, max_tokens=16):
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(logits(model), logits(other), rtol=1e-5, atol=1e-5)
    assert sparse_calls


def test_each_weight_is_held_once():
    model = relu_model("phi3")
    with ps.accelerate(model, max_tokens=16):
        mlp = ffns(model)[0].module
        weights = mlp._sparse_path.weights()
        assert weights.gate_proj.data_ptr() == mlp.gate_up_proj.weight.data_ptr()
        storage = mlp.gate_up_proj.weight.untyped_storage().data_ptr()
        assert weights.up_proj.untyped_storage().data_ptr() == storage
        assert weights.down_projT.data_ptr() == mlp.down_proj.weight.data_ptr()
        assert weights.down_projT.is_contiguous()
        assert isinstance(mlp.down_proj.weight, nn.Parameter)
