# SPDX-License-Identifier: Apache-2.0
"""Dense projections that read rows for a few tokens, and are themselves for more."""

import copy

import pytest
import torch
from torch import nn

import prosparse as ps
from prosparse.kernels import linear as kernel
from prosparse.model.quantized import QuantizedLinear, QuantizedMatrix
from prosparse.runtime.few_tokens import (
    FewTokenLinear,
    FewTokenQuantized,
    plain_linears,
    swap_in,
    swap_out,
)
from tests.model.test_quantized import quantized
from tests.model.tiny import tiny_tokens
from tests.runtime.models import logits, relu_model


@pytest.fixture
def projection():
    torch.manual_seed(0)
    layer = nn.Linear(32, 48).requires_grad_(False)
    swap_in(layer, max_tokens=4)
    return layer


@pytest.fixture
def calls(monkeypatch):
    seen = []
    backend = kernel.implementation(torch.device("cpu"))
    name = "linears" if hasattr(backend, "linears") else "gate_up"
    run = getattr(backend, name)
    monkeypatch.setattr(backend, name, lambda x, *rest: seen.append(len(x)) or run(x, *rest))
    return seen


def test_few_tokens_read_rows_and_more_do_not(projection, calls):
    few, more = torch.randn(2, 2, 32), torch.randn(5, 32)
    expected = nn.functional.linear(few, projection.weight, projection.bias)
    torch.testing.assert_close(projection(few), expected)
    assert projection(few).shape == (2, 2, 48)
    assert calls == [4, 4]
    projection(more)
    projection(torch.randn(0, 32))
    assert calls == [4, 4]


def test_gradients_and_autocast_go_the_models_own_way(projection, calls):
    x = torch.randn(1, 32, requires_grad=True)
    projection(x).sum().backward()
    assert x.grad is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert projection(torch.randn(1, 32)).dtype == torch.bfloat16
    assert not calls


def test_a_weight_written_since_is_not_ready(projection):
    way = projection._few_tokens
    assert not way.is_ready(projection.weight)
    assert way.is_ready(projection.weight)
    projection.weight.add_(1)
    assert not way.is_ready(projection.weight)


def test_swapped_out_it_is_what_it_was(projection):
    swap_out(projection)
    assert type(projection) is nn.Linear
    assert not [name for name in vars(projection) if "few" in name]


def test_only_plain_linears_with_rows_are_taken():
    class Adapted(nn.Linear):
        pass

    transposed = nn.Linear(8, 6)
    transposed.weight.data = transposed.weight.data.T.contiguous().T
    plain = nn.Linear(8, 6)
    found = plain_linears([plain, Adapted(8, 6), transposed, nn.Linear(8, 6).double(), nn.ReLU()])
    assert found == [plain]


def test_a_whole_model_writes_the_same(calls):
    model = relu_model("llama")
    tokens = tiny_tokens(3, batch_size=1)
    expected = logits(model, tokens)
    for layer in plain_linears(model.modules()):
        swap_in(layer, max_tokens=4)
    torch.testing.assert_close(logits(model, tokens), expected)
    assert len(calls) > 10
    copied = copy.deepcopy(model)
    assert any(isinstance(module, FewTokenLinear) for module in copied.modules())
    torch.testing.assert_close(logits(copied, tokens), expected)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_packed_projections_are_read_packed(model_type, bits, calls, monkeypatch):
    model = quantized(model_type, bits)
    tokens = tiny_tokens(3, batch_size=1)
    expected = logits(model, tokens)
    with ps.accelerate(model, max_tokens=4):
        seconds = [m for m in model.modules() if isinstance(m, FewTokenQuantized)]
        assert len(seconds) == (2 * 4 + 1 if model_type == "llama" else 2 * 2 + 1)
        calls.clear()
        unpacked = []
        monkeypatch.setattr(QuantizedMatrix, "rows", lambda *_: unpacked.append(1))
        torch.testing.assert_close(logits(model, tokens), expected)
        monkeypatch.undo()
        assert not unpacked
        copied = copy.deepcopy(model)
        torch.testing.assert_close(logits(copied, tokens), expected)
    assert not [m for m in model.modules() if isinstance(m, FewTokenQuantized)]
    assert torch.equal(logits(model, tokens), expected)


@pytest.mark.parametrize("bits", [8, 4])
def test_more_tokens_autocast_and_gradients_unpack(bits, calls):
    layer = QuantizedLinear(
        nn.Linear(32, 48).requires_grad_(False), bits, is_down=False, group_size=32
    )
    swap_in(layer, max_tokens=4)
    calls.clear()
    layer(torch.randn(5, 32))
    layer(torch.randn(1, 32, requires_grad=True)).sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(torch.randn(1, 32))
    assert not calls
    x = torch.randn(2, 2, 32)
    expected = nn.functional.linear(x, layer.dense_weight(), layer.bias)
    torch.testing.assert_close(layer(x), expected)
    assert calls == [4]
    swap_out(layer)
    assert type(layer) is QuantizedLinear


def test_compiles_whole(projection):
    x = torch.randn(2, 32)
    compiled = torch.compile(projection, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), projection(x))
