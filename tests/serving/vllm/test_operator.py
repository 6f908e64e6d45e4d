# SPDX-License-Identifier: Apache-2.0
"""The operator needs no vLLM: it is what vLLM's graphs call."""

import pytest
import torch

from prosparse.kernels import reference
from prosparse.serving.vllm import operator
from tests.kernels.cases import random_weights, relative_error


@pytest.fixture
def noted(monkeypatch):
    """The calls that were noted: number of tokens, and whether they went the sparse way."""
    calls = []

    class Notes:
        def note(self, x, is_sparse, weights):
            calls.append((len(x), is_sparse))

    monkeypatch.setattr(operator, "live", Notes)
    return calls


def arguments(weights, max_tokens):
    gate_up, bias = weights.gate_proj, weights.gate_bias
    if weights.up_proj is not None:
        gate_up = torch.cat([gate_up, weights.up_proj])
        bias = None if bias is None else torch.cat([bias, weights.up_bias])
    return (
        gate_up,
        weights.down_projT,
        bias,
        weights.down_bias,
        weights.up_proj is not None,
        weights.threshold,
        weights.shift,
        weights.up_relu,
        max_tokens,
    )


@pytest.mark.parametrize("tokens", [1, 4, 5, 16, 17, 40])
@pytest.mark.parametrize("max_tokens", [0, 4, 16])
def test_both_ways_give_the_ffn_and_the_number_of_tokens_decides(noted, tokens, max_tokens):
    weights = random_weights(32, 56, threshold=0.3, biases=True)
    x = torch.randn(tokens, 32)
    found = operator.served_ffn(x, *arguments(weights, max_tokens))
    assert relative_error(found, reference.sparse_ffn(x, weights)) < 1e-5
    assert noted == [(tokens, tokens <= max_tokens)]


def test_an_ffn_without_a_gate(noted):
    gated = random_weights(32, 56)
    plain = type(gated)(gated.gate_proj, None, gated.down_projT)
    for tokens in (3, 30):
        x = torch.randn(tokens, 32)
        found = operator.served_ffn(x, *arguments(plain, 16))
        assert relative_error(found, reference.sparse_ffn(x, plain)) < 1e-5


def test_a_step_without_tokens(noted):
    weights = random_weights(32, 56)
    assert operator.served_ffn(torch.empty(0, 32), *arguments(weights, 16)).shape == (0, 32)


def test_code_compiled_for_any_number_of_tokens_still_switches(noted):
    weights = random_weights(32, 56, threshold=0.3)
    rest = arguments(weights, 8)
    compiled = torch.compile(
        lambda x: operator.served_ffn(x, *rest) + 1,
        backend="aot_eager",
        dynamic=True,
        fullgraph=True,
    )
    for tokens in (3, 30, 8, 9):
        x = torch.randn(tokens, 32)
        expected = reference.sparse_ffn(x, weights) + 1
        assert relative_error(compiled(x), expected) < 1e-5
    assert noted == [(3, True), (30, False), (8, True), (9, False)]


def test_torch_accepts_it(noted):
    weights = random_weights(32, 56, threshold=0.3)
    for tokens in (2, 30):
        torch.library.opcheck(
            operator.served_ffn,
            (torch.randn(tokens, 32), *arguments(weights, 8)),
            test_utils=("test_schema", "test_faketensor"),
        )
