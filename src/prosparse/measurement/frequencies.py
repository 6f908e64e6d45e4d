# SPDX-License-Identifier: Apache-2.0
"""How often does each whole number occur?"""

from __future__ import annotations

import torch
from torch import Tensor


def frequencies(values: Tensor, num_values: int) -> Tensor:
    """Return how often each whole number in [0, num_values) occurs, int64 [num_values].

    Args:
        values: Any integer dtype and shape, each number at most 2^24 times: float32 counts them.
        num_values: Of different values.
    """
    # bincount would make the host wait for the largest one, scatter_add the threads for one another.
    # The middle of a bin stays in it, however its place is rounded.
    counts = torch.histc(values.float() + 0.5, bins=num_values, min=0, max=num_values)
    return counts.long()
