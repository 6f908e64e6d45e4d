# SPDX-License-Identifier: Apache-2.0
"""Run a model one precision up without a second copy of it: what its own rounding is measured by.

Every tensor operation gets its operands in the wider dtype and is computed there, inside a `with`
block; the model itself is not touched. A weight is widened when an operation reads it and dropped
when that is done, so a block costs one wide weight at a time. Where modeling code asks for a dtype
(rotary tables, norms, softmax) it gets the wider one as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


def one_precision_up(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float32, and float32 for bfloat16 and float16."""
    return torch.float64 if dtype == torch.float32 else torch.float32


class ComputesIn(TorchDispatchMode):
    """Compute all that happens inside the block in one dtype, whatever narrower ones it meets.

    Without gradients only. Integers and booleans stay as they are.

    Args:
        dtype: float32 or float64.

    Raises:
        RuntimeError: Inside the block: something writes into a narrower tensor from outside it, which
            would be lost.

    Example:
        >>> with torch.no_grad(), ComputesIn(torch.float32):
        ...     logits = bfloat16_model(input_ids).logits  # float32
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation of the block."""
        if func._schema.is_mutable and self._is_narrow(getattr(args[0], "dtype", None)):
            raise RuntimeError(f"{func} writes into a {args[0].dtype} tensor.")
        wide_args, wide_kwargs = tree_map(self._widened, (args, kwargs or {}))
        return tree_map(self._widened, func(*wide_args, **wide_kwargs))

    def _widened(self, value: Any) -> Any:
        if isinstance(value, torch.dtype) and self._is_narrow(value):
            return self._dtype
        if isinstance(value, Tensor) and self._is_narrow(value.dtype):
            return value.to(self._dtype)
        return value

    def _is_narrow(self, dtype: torch.dtype | None) -> bool:
        return (
            dtype is not None and dtype.is_floating_point and dtype.itemsize < self._dtype.itemsize
        )
