# SPDX-License-Identifier: Apache-2.0
"""Which code runs an operator: CUDA C++, Triton, C++ or plain PyTorch, and why not the faster one."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Literal, get_args

import torch

from prosparse.kernels.cpu.library import why_no_library

Backend = Literal["cuda", "triton", "cpu", "reference"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
"""Fastest first."""
MODULES: dict[Backend, str] = {
    "cuda": "prosparse.kernels.cuda.operators",
    "triton": "prosparse.kernels.triton",
    "cpu": "prosparse.kernels.cpu.operators",
    "reference": "prosparse.kernels.reference",
}
OLDEST_CAPABILITY = (8, 0)

_forced: list[Backend] = []


def choose_backend(device: torch.device) -> Backend:
    """Return the fastest backend that runs on a device, or the one `use_backend` asks for."""
    if _forced:
        return _forced[-1]
    return _fastest(device)


def implementation(device: torch.device) -> ModuleType:
    """Return the module whose functions run the sparse operators on a device."""
    return _module(choose_backend(device))


def training_backend(device: torch.device) -> Backend:
    """Return the backend of operators for many tokens, to train and to count: Triton or the reference."""
    chosen = choose_backend(device)
    if chosen in ("triton", "reference"):
        return chosen
    return "triton" if why_not("triton", device) is None else "reference"


def training_implementation(device: torch.device) -> ModuleType:
    """Return the module whose functions run the operators for many tokens on a device."""
    return _module(training_backend(device))


def is_forced() -> bool:
    """Return whether `use_backend` asks for a backend now."""
    return bool(_forced)


def why_not(backend: Backend, device: torch.device) -> str | None:
    """Return why a backend cannot run on a device, as one sentence; None when it can."""
    if backend == "reference":
        return None
    if backend == "cpu":
        if device.type != "cpu":
            return f"The cpu backend is for tensors on a CPU; these are on '{device.type}'."
        return why_no_library()
    if device.type != "cuda":
        return f"The {backend} backend needs an NVIDIA GPU; these tensors are on '{device.type}'."
    return _why_not_on_gpu(backend, device.index or 0)


@contextlib.contextmanager
def use_backend(backend: Backend) -> Iterator[None]:
    """Run the operators called inside the block with one backend; for tests and benchmarks.

    Raises:
        ValueError: There is no backend of this name.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; found '{backend}'.")
    _forced.append(backend)
    try:
        yield
    finally:
        _forced.pop()


@functools.cache
def _fastest(device: torch.device) -> Backend:
    return next(backend for backend in BACKENDS if why_not(backend, device) is None)


@functools.cache
def _module(backend: Backend) -> ModuleType:
    return importlib.import_module(MODULES[backend])


@functools.cache
def _why_not_on_gpu(backend: Backend, index: int) -> str | None:
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "The triton backend needs the package triton: pip install triton."
        return None
    if torch.version.hip:
        return "The cuda backend needs an NVIDIA GPU; this PyTorch is built for AMD's."
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST_CAPABILITY:
        found = ".".join(map(str, capability))
        return f"The cuda backend needs compute capability 8.0 or newer; this GPU has {found}."
    try:
        from cuda.bindings import driver, nvrtc  # noqa: F401 - may miss the shared library too

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        return f"The cuda backend needs cuda-bindings: pip install 'prosparse[gpu]' ({error})."
    return None
