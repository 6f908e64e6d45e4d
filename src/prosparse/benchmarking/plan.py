# SPDX-License-Identifier: Apache-2.0
"""What an operator benchmark will run: cases, copies of the weights, backends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prosparse.benchmarking.machine import cache_bytes, free_bytes
from prosparse.benchmarking.masks import Mask, parse_mask
from prosparse.errors import UserError
from prosparse.kernels.backend import BACKENDS, Backend, why_not
from prosparse.model.shapes import Shape
from prosparse.records.speed import NotRun

SPARSITIES = (0.0, 0.5, 0.67, 0.8, 0.893, 0.95, 0.98)
TOKENS = (1, 2, 4, 8, 16)
MASKS = ("random", "clustered")
QUICK_SPARSITIES, QUICK_TOKENS, QUICK_MASKS = (0.0, 0.5, 0.893), (1,), ("random",)
MAX_TOKENS = 16
REFERENCE_SPARSITY = 0.893  # of ProSparse-7B; the batch sweep runs at the sparsity next to it

COPIES = (32, 192)  # at least and at most, memory permitting
COPIES_CPU = 3
CACHES_ROTATED = 60  # all copies together are at least this many caches
MEMORY_SHARE = 0.25  # of free GPU memory for the weights; as much again for what is made of them


@dataclass(frozen=True, slots=True)
class Case:
    """One setting that all contenders run in."""

    mask: Mask
    sparsity: float
    """Asked for; a file of real activations has its own."""
    num_tokens: int


def plan_cases(
    masks: Sequence[str] | None,
    sparsity: Sequence[float] | None,
    tokens: Sequence[int] | None,
    shapes: Sequence[Shape],
    quick: bool = False,
) -> list[Case]:
    """Return the cases: masks by sparsity at the first number of tokens, then the batch sweep.

    What is None gets its default, or the one of a quick run.

    Raises:
        UserError: A list is empty, a value is out of range, or a file fits none of the shapes.
    """
    masks = masks if masks is not None else QUICK_MASKS if quick else MASKS
    sparsity = sparsity if sparsity is not None else QUICK_SPARSITIES if quick else SPARSITIES
    tokens = tokens if tokens is not None else QUICK_TOKENS if quick else TOKENS
    for option, values in (("--mask", masks), ("--sparsity", sparsity), ("--tokens", tokens)):
        if not values:
            raise UserError(f"{option} is empty; give at least one value.")
    for share in sparsity:
        if not 0 <= share <= 1:
            raise UserError(f"--sparsity must be in [0, 1]; found {share:g}.")
    for count in tokens:
        if not 1 <= count <= MAX_TOKENS:
            raise UserError(f"--tokens must be 1 to {MAX_TOKENS}; found {count}.")
    parsed = [parse_mask(name) for name in masks]
    for mask in parsed:
        widths = [shape.d_ff for shape in shapes]
        if mask.real_NF is not None and mask.real_NF.shape[1] not in widths:
            raise UserError(
                f"--mask: {mask.name} has {mask.real_NF.shape[1]} neurons, and no shape has as many."
            )
    middle = min(sparsity, key=lambda share: abs(share - REFERENCE_SPARSITY))
    first, *others = dict.fromkeys(tokens)
    swept = [
        Case(mask, share, first)
        for mask in parsed
        for share in ([middle] if mask.real_NF is not None else dict.fromkeys(sparsity))
    ]
    batched = [
        Case(mask, middle, count)
        for count in others
        for mask in parsed
        if mask is parsed[0] or mask.real_NF is not None
    ]
    return [*swept, *batched]


def count_copies(shape: Shape, dtype: torch.dtype, device: torch.device) -> int:
    """Return how many copies of an FFN to hold: many caches' worth, within the free memory.

    Raises:
        UserError: Not even two copies fit.
    """
    if device.type != "cuda":
        return COPIES_CPU
    free = free_bytes(device)
    assert free is not None
    num_bytes = 4 * shape.d_model * shape.d_ff * dtype.itemsize  # down is held in two layouts
    wanted = math.ceil(CACHES_ROTATED * cache_bytes(device) / num_bytes)
    fitting = int(MEMORY_SHARE * free / num_bytes)
    if fitting < 2:
        raise UserError(
            f"{shape.name}: two copies of its weights take {2 * num_bytes / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB of GPU memory are free, of which a quarter may be used; "
            "choose a smaller --shape."
        )
    return min(fitting, max(COPIES[0], min(COPIES[1], wanted)))


def choose_backends(device: torch.device) -> tuple[tuple[Backend, ...], list[NotRun]]:
    """Return the backends of the operators that run on a device, best first, and why others do not."""
    here = ("cuda", "triton") if device.type == "cuda" else ("cpu",)
    reasons = {name: why_not(name, device) for name in BACKENDS if name in here}
    able = tuple(name for name, reason in reasons.items() if reason is None)
    missing = [NotRun(f"backend {name}", reason) for name, reason in reasons.items() if reason]
    return able or ("reference",), missing
