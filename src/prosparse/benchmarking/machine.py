# SPDX-License-Identifier: Apache-2.0
"""What a benchmark must know of the machine: cache, free memory, clocks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import torch

CLOCK_FIELDS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "power.limit", "driver_version")  # fmt: skip


CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
MEMORY = Path("/proc/meminfo")


def cache_bytes(device: torch.device) -> int:
    """Return the size of the last cache: a GPU's L2, a CPU's largest where Linux tells it, else 0."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [path.read_text().strip() for path in CPU_CACHES.glob("index*/size")]
    return max((int(size.rstrip("K")) * 1024 for size in sizes if size.endswith("K")), default=0)


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU, or of this machine where Linux tells it; else None."""
    if device.type != "cuda":
        text = MEMORY.read_text() if MEMORY.exists() else ""
        found = re.search(r"MemAvailable:\s+(\d+) kB", text)
        return int(found[1]) * 1024 if found else None
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
