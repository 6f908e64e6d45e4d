# SPDX-License-Identifier: Apache-2.0
import pytest

from prosparse.runtime import sparse_ffn as module


@pytest.fixture
def sparse_calls(monkeypatch) -> list[int]:
    """The number of tokens of every call of the sparse operator."""
    calls: list[int] = []
    original = module.sparse_ffn

    def noted(x, weights, **options):
        calls.append(len(x))
        return original(x, weights, **options)

    monkeypatch.setattr(module, "sparse_ffn", noted)
    return calls
