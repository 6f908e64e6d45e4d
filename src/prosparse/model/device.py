# SPDX-License-Identifier: Apache-2.0
"""What a run computes on: the device, its name, and the precision it is fast in."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from prosparse.errors import UserError
from prosparse.records.provenance import Provenance, collect_provenance


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to compute on: the one named, or the first GPU, or the CPU.

    Raises:
        UserError: The named device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # the meta device is one too, but computes nothing
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise UserError(f"Device '{name}' cannot be used here: {reason}.") from None
    return device


def device_name(device: torch.device | str) -> str:
    """Return what the hardware calls itself, e.g. `NVIDIA H100 80GB HBM3`."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 matrix products run in hardware on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def provenance(device: torch.device | str, seed: int | None = None) -> Provenance:
    """Return the provenance of numbers computed on `device` by this process."""
    return collect_provenance(device_name(device), torch.get_num_threads(), seed)


def forward_precision(name: str, device: torch.device) -> str:
    """Return `float32` or `bfloat16` for a recipe's or an option's `auto`, `float32`, `bfloat16`.

    `auto` is bfloat16 where the hardware has it, float32 elsewhere: emulated bfloat16 is several
    times slower than float32.

    Raises:
        UserError: It is none of the three.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise UserError(f"--precision must be auto, float32 or bfloat16; found '{name}'.")
    if name == "auto":
        return "bfloat16" if has_fast_bfloat16(device) else "float32"
    return name


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which matrix products run in `precision`; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
