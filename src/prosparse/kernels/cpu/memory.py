# SPDX-License-Identifier: Apache-2.0
"""Memory as the kernels like it: on huge pages, so that rows in random places miss no page table."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from prosparse.kernels.cpu.library import library

HUGE_PAGE = 2 * 2**20
LARGE = 4 * HUGE_PAGE
LINE = 64
MADV_HUGEPAGE = 14
MADV_COLLAPSE = 25  # from Linux 6.1 on: at once, where it lies


def ask_for_huge_pages(tensor: Tensor) -> None:
    """Ask Linux to put a CPU tensor without gaps on huge pages; no value and no address changes.

    It is a hint: a system that refuses it, or has no such pages free, goes on with small ones. Other
    systems and devices are left alone.
    """
    if tensor.device.type != "cpu" or sys.platform != "linux":
        return
    start = tensor.data_ptr()
    end = start + tensor.numel() * tensor.element_size()
    first = -(-start // HUGE_PAGE) * HUGE_PAGE
    num_bytes = end // HUGE_PAGE * HUGE_PAGE - first
    if num_bytes <= 0:
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    madvise(first, num_bytes, MADV_HUGEPAGE)
    madvise(first, num_bytes, MADV_COLLAPSE)


def move_onto_huge_pages(tensors: Sequence[Tensor]) -> None:
    """Bring tensors onto huge pages; values, shapes and strides stay.

    Large ones stay where they are, and Linux is asked for such pages there. Those that are too small to have
    a huge page of their own are moved into memory that they share; each keeps a storage of its own.

    Args:
        tensors: Dense (rows or columns without gaps); a leaf's data is exchanged. Those that are not on a
            CPU are left alone.
    """
    here = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    small = {id(t): t for t in here if 0 < t.nbytes < LARGE}
    for tensor in here:
        if tensor.nbytes >= LARGE:
            ask_for_huge_pages(tensor)
    if sys.platform != "linux" or not small:
        return
    sizes = [-(-tensor.nbytes // LINE) * LINE for tensor in small.values()]
    memory = mmap.mmap(-1, sum(sizes) + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    offset = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % HUGE_PAGE
    for tensor, size in zip(small.values(), sizes, strict=True):
        values = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
        moved = values.as_strided(tensor.shape, tensor.stride())
        moved.copy_(tensor.detach())
        tensor.data = moved  # frees what it had
        offset += size


def read(data: Tensor) -> None:
    """Read a tensor on all threads and do nothing with it: what this memory can give."""
    num_bytes = data.numel() * data.element_size()
    library().prosparse_read(data.data_ptr(), num_bytes, torch.get_num_threads())
