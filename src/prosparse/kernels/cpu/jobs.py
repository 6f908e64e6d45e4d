# SPDX-License-Identifier: Apache-2.0
"""Jobs that are made once: checking tensors and describing them takes longer than a small matrix.

What a job holds of a tensor is its address, shape and dtype; so those are what it is found by, and new
values at an old address are seen.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from prosparse.kernels.cpu.library import Job

MOST_PREPARED = 4096

_prepared: dict[tuple, tuple[type[ctypes.Array], bytes] | None] = {}


def prepared(
    x: Tensor, parts: Sequence[Any], make: Callable[[], list[Job] | None]
) -> ctypes.Array | None:
    """Return jobs, an array of the caller's own, to put addresses of this call into.

    Args:
        x: Whose shape and dtype they are for.
        parts: All else they are made from: tensors, numbers, None.
        make: Checks and makes them, when they have not been seen before; None if these kernels cannot.
    """
    key = (x.dtype, x.shape, *map(_identity, parts))
    if key not in _prepared:
        if len(_prepared) >= MOST_PREPARED:
            _prepared.clear()
        jobs = make()
        if jobs is None:
            _prepared[key] = None
        else:
            kind = Job * len(jobs)
            _prepared[key] = kind, bytes(kind(*jobs))
    found = _prepared[key]
    return None if found is None else found[0].from_buffer_copy(found[1])


def _identity(part: Any) -> Any:
    if not isinstance(part, Tensor):
        return part
    return part.data_ptr(), part.dtype, part.shape, part.stride()
