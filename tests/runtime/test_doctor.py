# SPDX-License-Identifier: Apache-2.0
"""The doctor says what is missing, how to mend it and what it costs."""

import torch

from prosparse.kernels.cpu import library
from prosparse.runtime import doctor as module
from prosparse.runtime.doctor import doctor


def found(name):
    (finding,) = [finding for finding in doctor() if finding.name == name]
    return finding


def test_versions_come_first():
    first = doctor()[0]
    assert first.name == "versions"
    assert f"torch {torch.__version__}" in first.text


def test_kernels_say_their_variant_and_threads():
    if library.why_no_library():
        assert not found("cpu kernels").is_well
        return
    text = str(found("cpu kernels"))
    assert library.variant() in text
    assert f"{torch.get_num_threads()} threads" in text


def test_without_a_compiler_it_says_what_to_install_and_what_it_costs(monkeypatch):
    monkeypatch.setattr(module, "why_not", lambda backend, device: "Not compiled: install GCC.")
    finding = found("cpu kernels")
    assert not finding.is_well
    assert str(finding).startswith("--  cpu kernels: Not compiled: install GCC. Without it ")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'prosparse[gguf]'" in str(found("gguf"))
    assert "GGUF files cannot be loaded" in str(found("gguf"))
