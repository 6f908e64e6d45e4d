# SPDX-License-Identifier: Apache-2.0
"""How a kernel is launched: on which device, over which blocks, on tensors laid out how."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def launch(
    kernel: Any, grid: tuple[int, ...], first: Tensor, *arguments: object, **blocks: int
) -> None:
    """Run `kernel` over `grid`, on the device of its first tensor and the stream current there."""
    for tensor in (first, *arguments):
        assert not isinstance(tensor, Tensor) or tensor.shape[-1] == 1 or tensor.stride(-1) == 1
    with torch.cuda.device_of(first):
        kernel[grid](first, *arguments, **blocks)


def block_sizes(num_tokens: int, d_model: int, widest: int, *groups: int) -> dict[str, int]:
    """Return BLOCK_T, BLOCK_F and BLOCK_D: the tokens, neurons and columns of one program.

    Args:
        num_tokens: T.
        d_model: D.
        widest: The most columns, a power of two.
        groups: Group sizes of the weights, 0 where not quantized: a block is within one group.
    """
    tokens = _next_power_of_two(num_tokens)
    # float32 products held open: 32 or 64 registers of each of the 128 threads.
    pairs = (4096 if tokens == 1 else 8192) // tokens
    columns = min(_next_power_of_two(d_model), widest, pairs // 4, *filter(None, groups))
    neurons = min(pairs // columns, 32)
    return {"BLOCK_T": tokens, "BLOCK_F": neurons, "BLOCK_D": columns}


def num_blocks(size: int, block: int) -> int:
    """Return how many blocks cover `size`."""
    return -(-size // block)


def group_size(scales: Tensor | None, d_model: int) -> int:
    """Return how many values of a row share one of `scales` [F, G]; 0 if there are none."""
    if scales is None:
        return 0
    assert scales.is_contiguous()
    return d_model // scales.shape[1]


def with_rows(tensor: Tensor) -> Tensor:
    """Return `tensor`, copied unless the values of a row are neighbors."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def cut_of(threshold: float, dtype: torch.dtype) -> float:
    """Return the threshold as `dtype` has it: what the reference compares with."""
    return torch.tensor(threshold, dtype=dtype, device="cpu").item()


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
