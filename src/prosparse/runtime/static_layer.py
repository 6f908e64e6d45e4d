# SPDX-License-Identifier: Apache-2.0
"""A layer of transformers' static cache that does not count its tokens itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import StaticLayer


class StaticLayerOfAll(StaticLayer):
    """Keys and values of one layer; where to write is the same for all layers, and kept once.

    A stock layer counts its own tokens, one kernel per layer and step.
    """

    def __init__(self, max_length: int, cached: Tensor) -> None:
        super().__init__(max_length)
        self.cumulative_length = cached

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values, [B, heads, new, head_dim]; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        new = torch.arange(key_states.shape[-2], device=self.device) + self.cumulative_length
        self.keys.index_copy_(2, new, key_states)
        self.values.index_copy_(2, new, value_states)
        return self.keys, self.values
