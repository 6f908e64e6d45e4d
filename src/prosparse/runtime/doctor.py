# SPDX-License-Identifier: Apache-2.0
"""`prosparse doctor`: what of this machine prosparse can use, what is missing, and what that costs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from dataclasses import dataclass

import torch

from prosparse.kernels.backend import Backend, choose_backend, why_not
from prosparse.kernels.cpu.library import uses_openmp, variant


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    is_well: bool
    text: str
    """What was found, or why it cannot be used and how to mend it."""
    cost: str | None = None
    """What its absence costs; None where nothing is missing."""

    def __str__(self) -> str:
        mark = "ok" if self.is_well else "--"
        cost = "" if self.cost is None else f" {self.cost}"
        return f"{mark}  {self.name}: {self.text}{cost}"


REFERENCE_COST = (
    "Without it sparse decoding runs in plain PyTorch, which is exact but reads all weights and is "
    "slower than the dense model."
)
TRITON_COST = "Without it the cuda backend has no fallback, and training runs the unfused operator."
CUDA_COST = "Without it sparse decoding on a GPU runs the slower Triton kernels."
GPU_COSTS: dict[Backend, str] = {"cuda": CUDA_COST, "triton": TRITON_COST}

PACKAGES = (
    ("datasets", "data", "Without it Parquet files and hub data sets cannot be read."),
    ("gguf", "gguf", "Without it GGUF files cannot be loaded."),
    ("scipy", "laws", "Without it `prosparse fit` and `prosparse plan` do not run."),
    ("jinja2", "report", "Without it `prosparse report` does not run."),
    ("matplotlib", "report", "Without it reports have no plots."),
    ("fastapi", "serve", "Without it or vLLM `prosparse serve` does not run."),
    ("peft", "lora", "Without it recipes with `lora` do not run."),
)
"""Package, extra of prosparse that brings it, and what its absence costs."""


def doctor() -> list[Finding]:
    """Return what prosparse finds on this machine: versions, backends of every device, packages.

    Example:
        >>> import prosparse as ps
        >>> for finding in ps.doctor():
        ...     print(finding)
    """
    return [_versions(), *_cpu(), *_gpus(), *map(_package, PACKAGES)]


def _versions() -> Finding:
    names = ("prosparse", "torch", "transformers")
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    python = ".".join(map(str, sys.version_info[:3]))
    return Finding("versions", True, f"{packages}, Python {python} on {platform.platform()}.")


def _cpu() -> list[Finding]:
    reason = why_not("cpu", torch.device("cpu"))
    if reason is not None:
        return [Finding("cpu kernels", False, reason, REFERENCE_COST)]
    threads = "PyTorch's own threads" if uses_openmp() else "their own threads"
    text = f"{variant()}, {torch.get_num_threads()} threads ({threads})."
    if variant() == "portable":
        cost = "Without AVX2, AVX-512 or NEON they compute more slowly than memory could feed them."
        return [Finding("cpu kernels", False, text, cost)]
    return [Finding("cpu kernels", True, text)]


def _gpus() -> list[Finding]:
    found = []
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        name = f"{torch.cuda.get_device_name(index)} (cuda:{index})"
        found.append(Finding(name, True, f"runs the {choose_backend(device)} backend."))
        for backend, cost in GPU_COSTS.items():
            reason = why_not(backend, device)
            if reason is not None:
                found.append(Finding(f"{backend} kernels", False, reason, cost))
    return found or [Finding("gpu", True, "none that PyTorch sees; everything runs on the CPU.")]


def _package(entry: tuple[str, str, str]) -> Finding:
    name, extra, cost = entry
    if importlib.util.find_spec(name) is not None:
        return Finding(name, True, f"{importlib.metadata.version(name)}.")
    return Finding(name, False, f"not installed: pip install 'prosparse[{extra}]'.", cost)
