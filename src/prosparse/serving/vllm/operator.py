# SPDX-License-Identifier: Apache-2.0
"""The FFN of a step of vLLM, as one operator of PyTorch's.

vLLM compiles a model once, for any number of tokens, and drops the guards: a branch on that number would
be decided for good while it traces. Inside an operator it is decided in each call, and in each CUDA graph
that vLLM captures, as these are for one number of tokens. What an operator of vLLM's needs besides tensors
(an attention's cache, an FFN here) it finds by the layer's name in the context of the step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm.forward_context import get_forward_context

from prosparse.kernels.registration import operator


def _like_x(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@operator(_like_x)
def _served_ffn(x: Tensor, name: str) -> Tensor:
    """Return what the FFN of this name (`prosparse.serving.vllm.ffns.ServedFFN`) makes of x [..., D]."""
    return get_forward_context().no_compile_layers[name].compute(x)


served_ffn = _served_ffn
