# SPDX-License-Identifier: Apache-2.0
"""Where the Triton kernels run, and memory that is not what it was by luck."""

import importlib
import inspect
from collections.abc import Iterator

import pytest
import torch

TRITON_MODULES = ["projection", "sparse_up", "gate_up", "sparse_down", "reglu", "activity"]


@pytest.fixture
def triton_device() -> Iterator[str]:
    """Give "cuda" where there is a GPU; else "cpu", with Triton's interpreter for this test.

    The environment variable TRITON_INTERPRET must be set before triton is imported, which
    transformers does early, and it would hold for every other test of the process. So the jitted
    functions, triton's own among them, are replaced one by one, and come back after the test, with
    what the interpreter itself changes in triton.language and leaves behind.
    """
    if torch.cuda.is_available():
        yield "cuda"
        return
    tl = pytest.importorskip("triton.language")
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    # The first launch imports gluon, which insists on functions as jitted as they were.
    importlib.import_module("triton.experimental.gluon")
    ours = [importlib.import_module(f"prosparse.kernels.triton.{name}") for name in TRITON_MODULES]
    classes = [tl.core.tensor, tl.core.dtype, tl.core.tensor_descriptor_base]
    namespaces = [tl, tl.core, tl.math, tl.standard, *classes, *ours]
    before = [dict(vars(namespace)) for namespace in namespaces]
    for namespace in [tl, tl.standard, *ours]:
        for name, member in list(vars(namespace).items()):
            if isinstance(member, JITFunction):
                setattr(namespace, name, InterpretedFunction(member.fn))
    yield "cpu"
    for namespace, members in zip(namespaces, before, strict=True):
        for name, member in list(vars(namespace).items()):
            if name not in members:
                # Interpreted functions live on in a cache, and need what was added to a module.
                if inspect.isclass(namespace):
                    delattr(namespace, name)
            elif member is not members[name]:
                setattr(namespace, name, members[name])


@pytest.fixture
def poisoned_memory(monkeypatch) -> None:
    """Fill what `torch.empty` returns with NaN: a cell that a kernel forgets to write shows."""
    empty = torch.empty

    def poisoned(*size, **options) -> torch.Tensor:
        tensor = empty(*size, **options)
        return tensor.detach().fill_(torch.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", poisoned)
