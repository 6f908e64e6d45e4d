# SPDX-License-Identifier: Apache-2.0
"""Memory as the kernels like it: on huge pages, so that rows in random places miss no page table."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor

from prosparse.kernels.cpu.library import library

HUGE_PAGE = 2 * 2**20
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


def read(data: Tensor) -> None:
    """Read a tensor on all threads and do nothing with it: what this memory can give."""
    num_bytes = data.numel() * data.element_size()
    library().prosparse_read(data.data_ptr(), num_bytes, torch.get_num_threads())
