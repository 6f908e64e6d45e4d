# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm")

from prosparse.serving.vllm import operator


class Switching:
    """Doubles up to eight tokens, and trebles more."""

    def compute(self, x):
        return x * (2 if len(x) <= 8 else 3)


@pytest.fixture(autouse=True)
def step(monkeypatch):
    layers = {"layers.0.mlp": Switching()}
    context = SimpleNamespace(no_compile_layers=layers)
    monkeypatch.setattr(operator, "get_forward_context", lambda: context)


def test_it_is_found_by_its_name():
    assert operator.served_ffn(torch.ones(2, 4), "layers.0.mlp").eq(2).all()
    with pytest.raises(KeyError):
        operator.served_ffn(torch.ones(2, 4), "layers.1.mlp")


def test_code_compiled_for_any_number_of_tokens_still_switches():
    compiled = torch.compile(
        lambda x: operator.served_ffn(x, "layers.0.mlp") + 1,
        backend="aot_eager",
        dynamic=True,
        fullgraph=True,
    )
    found = [compiled(torch.ones(tokens, 4))[0, 0].item() for tokens in (3, 30, 8, 9)]
    assert found == [3, 4, 3, 4]


def test_torch_accepts_it():
    torch.library.opcheck(
        operator.served_ffn,
        (torch.ones(3, 4), "layers.0.mlp"),
        test_utils=("test_schema", "test_faketensor"),
    )
