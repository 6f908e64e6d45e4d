# SPDX-License-Identifier: Apache-2.0
"""The stock int4 baseline computes what its weights say, and leaves the model as it was."""

import pytest
import torch

import prosparse as ps
from prosparse.benchmarking.tinygemm import (
    TinyGemmLinear,
    dense_int4_ffns,
    quantize_attention,
    quantize_inputs,
)
from prosparse.model import shapes
from prosparse.model.quantized import QuantizedLinear
from prosparse.model.quantizing import ffn_places, quantize_ffns
from tests.model.tiny import tiny_model, tiny_tokens


def small_model():
    model = tiny_model(
        "llama", hidden_size=128, intermediate_size=256, num_attention_heads=4, hidden_act="relu"
    )
    return model.bfloat16()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)], ids=str)
def test_it_multiplies_with_its_rounded_weights(shape, bias):
    torch.manual_seed(0)
    weight = torch.randn(96, 256).bfloat16()
    b = torch.randn(96).bfloat16() if bias else None
    x = torch.randn(*shape, 256).bfloat16()
    q, scales = quantize_inputs(weight)
    rounded = (q.float() - 8) * scales.float().repeat_interleave(64, dim=1)
    assert (rounded - weight.float()).norm() <= 0.12 * weight.float().norm()
    expected = x.float() @ rounded.T + (0 if b is None else b.float())
    found = TinyGemmLinear(weight, b)(x)
    assert found.shape == expected.shape
    assert (found.float() - expected).norm() <= 1e-2 * expected.norm()


def test_a_transposed_weight_is_packed_as_one_that_is_not():
    weight = torch.randn(256, 96).bfloat16()
    q, scales = quantize_inputs(weight.T)  # a down projection that lies by neurons
    assert q.is_contiguous()
    for found, expected in zip((q, scales), quantize_inputs(weight.T.contiguous()), strict=True):
        assert torch.equal(found, expected)


def test_ffns_go_through_it_and_come_back():
    model = small_model()
    quantize_ffns(model, 4)
    with torch.no_grad():
        before = model(tiny_tokens(5)).logits
        with dense_int4_ffns(model):
            assert all(isinstance(place.module, TinyGemmLinear) for place in ffn_places(model))
            inside = model(tiny_tokens(5)).logits
        assert all(isinstance(place.module, QuantizedLinear) for place in ffn_places(model))
        assert torch.equal(model(tiny_tokens(5)).logits, before)
    # gate and up hold the same weights, down is rounded once more
    assert not torch.equal(inside, before)
    assert (inside - before).float().norm() <= 0.3 * before.float().norm()


def test_a_layer_that_computes_something_else_is_refused(monkeypatch):
    model = small_model()
    quantize_ffns(model, 4)
    honest = TinyGemmLinear.forward
    monkeypatch.setattr(TinyGemmLinear, "forward", lambda self, x: 1.1 * honest(self, x))
    with pytest.raises(ArithmeticError, match="off by"), dense_int4_ffns(model):
        pass
    assert all(isinstance(place.module, QuantizedLinear) for place in ffn_places(model))


def test_attention_is_quantized_in_place():
    model = small_model()
    quantize_attention(model)
    attention = model.model.layers[0].self_attn
    assert all(isinstance(layer, TinyGemmLinear) for layer in attention.children())


def test_bench_decode_in_four_bits_on_a_cpu_has_no_tinygemm(monkeypatch):
    tiny = shapes.Shape("tiny", 128, 256, 2, 4, 2, 128)
    monkeypatch.setitem(shapes.SHAPES, "tiny", tiny)
    record = ps.bench_decode(
        shape="tiny", quick=True, tokens=6, weight_bits=4, device="cpu", compiled=False
    )
    assert record.rows[0].contender == "sparse, our loop"
    assert not any(row.is_dense for row in record.rows)
    assert record.weight_bits == 4
    assert not record.not_run
    assert all(row.ms is not None for row in record.rows)


def test_bench_decode_in_eight_bits(monkeypatch):
    tiny = shapes.Shape("tiny", 128, 256, 2, 4, 2, 128)
    monkeypatch.setitem(shapes.SHAPES, "tiny", tiny)
    record = ps.bench_decode(
        shape="tiny",
        quick=True,
        tokens=6,
        weight_bits=8,
        device="cpu",
        dtype="float32",
        compiled=False,
    )
    assert not any(row.is_dense for row in record.rows)
    per_neuron = 3 * 128 * (1 + 2 / 64)  # three rows of bytes, and their scales
    assert record.ffn_mb == pytest.approx(2 * 256 * per_neuron * 1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight_bits": 3}, "must be 4 or 8; found 3"),
    ],
)
def test_refusals(options, words, monkeypatch):
    tiny = shapes.Shape("tiny", 128, 256, 2, 4, 2, 128)
    monkeypatch.setitem(shapes.SHAPES, "tiny", tiny)
    with pytest.raises(ps.UserError, match=words):
        ps.bench_decode(shape="tiny", quick=True, device="cpu", **options)
