# SPDX-License-Identifier: Apache-2.0
"""A Triton kernel that reads memory and does nothing else: the least a weight can cost.

It adds up the words it reads and stores the sum only where it equals one number of four billion, so
the reads stay and next to nothing is written.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

NUM_WARPS = 4


@triton.jit
def _read_kernel(data, out, num_words, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    values = tl.load(data + offsets, mask=offsets < num_words, other=0)
    total = tl.sum(values, axis=0)
    tl.store(out, total, mask=total == 1)


def read(data: Tensor, out: Tensor, block: int) -> Tensor:
    """Read all of `data`, int32 [num_words], in programs of `block` words; return `out`."""
    num_words = data.numel()
    launch: Any = _read_kernel[(triton.cdiv(num_words, block),)]
    launch(data, out, num_words, BLOCK=block, num_warps=NUM_WARPS)
    return out
