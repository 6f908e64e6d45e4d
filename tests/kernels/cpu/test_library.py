# SPDX-License-Identifier: Apache-2.0
"""How the compiled kernels are found, chosen, and do without threads they have lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prosparse.kernels import backend
from prosparse.kernels.cpu import library
from tests.kernels.cpu.conftest import VARIANTS, use

FORK = """
import os, torch
from prosparse.kernels import ops
from prosparse.kernels.cpu import library
from pathlib import Path
library.PATH = Path({path!r})
torch.set_num_threads(2)
library.library().prosparse_use_openmp({openmp})
x, w = torch.randn(1, 256), torch.randn(512, 256)
pre = torch.randn(1, 512)
expected = ops.sparse_up(pre, x, w)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(ops.sparse_up(pre, x, w), expected) else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(ops.sparse_up(pre, x, w), expected)
"""


@pytest.fixture
def fresh(monkeypatch):
    """Forget what is known of the library, before and after."""
    caches = (library.why_no_library, library.library, backend._fastest)
    for cached in caches:
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


def test_the_best_variant_is_chosen_and_others_can_be():
    assert use(None)
    assert library.variant() != "portable" or not any(map(use, VARIANTS[1:]))
    assert use("portable")
    assert library.variant() == "portable"
    assert not use("avx1024")
    assert library.variant() == "portable"


def test_an_environment_variable_names_the_variant(fresh, monkeypatch):
    monkeypatch.setenv("PROSPARSE_CPU", "portable")
    assert library.why_no_library() is None
    assert library.variant() == "portable"


def test_a_variant_that_does_not_run_here_is_named(fresh, monkeypatch):
    monkeypatch.setenv("PROSPARSE_CPU", "mmx")
    assert "PROSPARSE_CPU=mmx names no variant that runs on this CPU" in library.why_no_library()


def test_without_the_library_the_reference_runs_and_says_why(fresh, monkeypatch):
    monkeypatch.setattr(library, "PATH", Path("/nowhere/libprosparse_cpu.so"))
    cpu = torch.device("cpu")
    assert "install a C++17 compiler" in backend.why_not("cpu", cpu)
    assert backend.choose_backend(cpu) == "reference"


def test_what_is_no_library_is_said_so(fresh, monkeypatch, tmp_path):
    other = tmp_path / "libprosparse_cpu.so"
    other.write_text("no library")
    monkeypatch.setattr(library, "PATH", other)
    assert "does not load" in library.why_no_library()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("openmp", [True, False])
def test_a_forked_child_computes_too(openmp):
    script = FORK.format(path=str(library.PATH), openmp=openmp)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
