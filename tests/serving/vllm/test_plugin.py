# SPDX-License-Identifier: Apache-2.0
from importlib.metadata import entry_points

import pytest

pytest.importorskip("vllm")

from prosparse.serving.vllm.plugin import SparseVersion, register


def test_vllm_finds_it():
    (point,) = entry_points(group="vllm.general_plugins", name="prosparse")
    assert point.load() is register


def test_a_second_call_does_nothing():
    from vllm import ModelRegistry

    register()
    before = dict(ModelRegistry.models)
    register()
    assert ModelRegistry.models == before
    assert isinstance(before["LlamaForCausalLM"], SparseVersion)
    assert isinstance(before["TransformersForCausalLM"], SparseVersion)
    assert not isinstance(before["MixtralForCausalLM"], SparseVersion)
    assert not isinstance(before["LlamaForCausalLM"].stock, SparseVersion)
