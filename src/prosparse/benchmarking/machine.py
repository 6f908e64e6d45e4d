# SPDX-License-Identifier: Apache-2.0
"""What a benchmark must know of the machine: cache, free memory, clocks."""

from __future__ import annotations

import subprocess

import torch

CLOCK_FIELDS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "power.limit", "driver_version")  # fmt: skip


def cache_bytes(device: torch.device) -> int:
    """Return the size of a GPU's L2 cache; 0 for other devices, whose caches are left alone."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU; None on the CPU, where it is not asked for."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


def read_clocks(device: torch.device) -> dict[str, str]:
    """Return clocks, power and driver as `nvidia-smi` reads them; empty where it cannot.

    The clocks that count are those under load: call it right after the last measurement.
    """
    if device.type != "cuda":
        return {}
    gpu = torch.cuda.get_device_properties(device)
    command = [
        "nvidia-smi",
        f"--id=GPU-{gpu.uuid}",
        f"--query-gpu={','.join(CLOCK_FIELDS)}",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(CLOCK_FIELDS, values, strict=True)) if len(values) == len(CLOCK_FIELDS) else {}
