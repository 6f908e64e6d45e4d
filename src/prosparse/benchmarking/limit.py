# SPDX-License-Identifier: Apache-2.0
"""What the hardware allows: the time of one launch that must read X MB, t = a + b * X.

Bytes over peak bandwidth is no bound that a decode step could meet: a launch, the first byte's way
and the last block's end cost microseconds. So the bound is measured, with the same stopwatch as
everything else, on a kernel that only reads, over sizes from a small step to a whole FFN.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prosparse.benchmarking.machine import free_bytes
from prosparse.benchmarking.timing import Call, Replay, Stopwatch
from prosparse.kernels.backend import why_not
from prosparse.kernels.cpu.memory import ask_for_huge_pages, read
from prosparse.records.speed import LimitPoint, SpeedLimit

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES_MB = (0.25, 0.5, 1, 2, 5, 10, 20, 45, 90, 180, 270)
SIZES_MB_CPU = (1, 5, 10, 20, 45, 90, 180)
MAX_NODES = 64
MIN_NODES = 8
BUFFER_BYTES = 4 * 2**30
BUFFER_BYTES_CPU = 2**29
BLOCKS = (1024, 2048, 4096, 8192)  # words of 4 bytes in a program; the best counts
ALIGNMENT = 1024  # words


def measure_limit(device: torch.device, stopwatch: Stopwatch) -> SpeedLimit:
    """Measure the line on this device."""
    method, readers = _readers(device)
    free = free_bytes(device)
    most = BUFFER_BYTES if device.type == "cuda" else BUFFER_BYTES_CPU
    num_bytes = most if free is None else min(most, free // 2)
    # Random words: zeros may cost a chip less than data do.
    buffer = torch.empty(num_bytes // 4, dtype=torch.int32, device=device).random_()
    ask_for_huge_pages(buffer)
    out = torch.zeros(2, dtype=torch.int32, device=device)
    points = []
    for size in SIZES_MB if device.type == "cuda" else SIZES_MB_CPU:
        words = round(size * 1e6 / 4) // ALIGNMENT * ALIGNMENT
        num_nodes = min(MAX_NODES, buffer.numel() // words)
        if num_nodes < (MIN_NODES if device.type == "cuda" else 1):
            continue
        parts = [buffer[i * words : (i + 1) * words] for i in range(num_nodes)]
        times = [
            stopwatch.time(Replay([_bound(reader, part, out) for part in parts], device)).median
            for reader in readers
        ]
        points.append(LimitPoint(mb=4e-6 * words, us=min(times)))
    launch, per_mb = fit_line([(p.mb, p.us) for p in points])
    return SpeedLimit(method=method, launch_us=launch, us_per_mb=per_mb, points=tuple(points))


def fit_line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Return (a, b) of y = a + b x with the least sum of squared relative errors."""
    x, y = torch.tensor(points, dtype=torch.float64).T
    design = torch.stack([torch.ones_like(x), x], dim=1) / y[:, None]
    a, b = torch.linalg.lstsq(design, torch.ones_like(y)[:, None]).solution.flatten().tolist()
    return a, b


def _readers(device: torch.device) -> tuple[str, list[Callable[[Tensor, Tensor], Tensor]]]:
    """Return how reading is done here, and the ways to try."""
    if device.type != "cuda":
        return _readers_of_cpu(device)
    if importlib.util.find_spec("triton") is None:
        return (
            "a copy on the device of half as many bytes, read and written, for want of triton",
            [lambda data, out: data[: len(data) // 2].copy_(data[len(data) // 2 :])],
        )
    from prosparse.benchmarking.read_kernel import read

    def reader(block: int) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda data, out: read(data, out, block)

    blocks = ", ".join(f"{4 * block // 1024}" for block in BLOCKS)
    return (
        f"a Triton kernel that only reads (best of {blocks} KiB for each block), CUDA graph replay",
        [reader(block) for block in BLOCKS],
    )


def _readers_of_cpu(device: torch.device) -> tuple[str, list[Callable[[Tensor, Tensor], Tensor]]]:
    if why_not("cpu", device) is not None:
        return "torch.sum on the CPU, a wall clock around a loop", [lambda data, out: data.sum()]

    def reader(data: Tensor, out: Tensor) -> Tensor:
        read(data)
        return out

    return (
        "a threaded loop on the CPU that only reads, on huge pages if it can, a wall clock",
        [reader],
    )


def _bound(reader: Callable[[Tensor, Tensor], Tensor], data: Tensor, out: Tensor) -> Call:
    return lambda: reader(data, out)
