# SPDX-License-Identifier: Apache-2.0
"""How an operator becomes one of PyTorch's.

`torch.library.custom_op` does the same with Python code around every call, which at decode on a CPU took
longer than the kernel of a small FFN. Here only the operator itself is Python. It has no backward:
PyTorch warns where one is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "prosparse"

_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def operator(fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as `torch.ops.prosparse.<its name without underscores>`.

    It must change none of its arguments and return none of them; its type hints are the schema.

    Args:
        fake: Returns tensors of the right shapes and dtypes, for tracing.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__.strip("_")
        schema = torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
        return getattr(getattr(torch.ops, NAMESPACE), name).default

    return register
