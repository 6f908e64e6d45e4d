# SPDX-License-Identifier: Apache-2.0
"""Which neurons are active: drawn at random, in clusters, or taken from real activations.

T tokens, F = d_ff, N tokens of a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prosparse.errors import UserError

RUN_LENGTH = 64  # neighboring neurons that a cluster switches on together


@dataclass(frozen=True, slots=True)
class Mask:
    """A way to choose active neurons."""

    name: str
    """`random`, `clustered`, or the name of a file."""
    real_NF: Tensor | None = None
    """bool; activity of real tokens, with its own sparsity."""

    def draw(self, num_tokens: int, d_ff: int, sparsity: float, index: int, seed: int) -> Tensor:
        """Return bool [T, F] on the CPU, true where a neuron is active.

        Args:
            num_tokens: T.
            d_ff: F.
            sparsity: Share of inactive neurons, exact for each token up to rounding; a file has
                its own.
            index: Which layer copy it is for: each gets another mask, a file's rows in order.
            seed: Of the random numbers.
        """
        if self.real_NF is not None:
            rows = torch.arange(index * num_tokens, (index + 1) * num_tokens) % len(self.real_NF)
            return self.real_NF[rows]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        num_active = round((1 - sparsity) * d_ff)
        draw = _clustered if self.name == "clustered" else _random
        return torch.stack([draw(d_ff, num_active, generator) for _ in range(num_tokens)])


def parse_mask(name: str) -> Mask:
    """Return the mask of `random`, `clustered` or the path of a `.npy` file [N, F].

    Raises:
        UserError: It is none of them, or the file is no matrix of numbers.
    """
    if name in ("random", "clustered"):
        return Mask(name)
    path = Path(name)
    if path.suffix != ".npy":
        raise UserError(f"--mask must be random, clustered or a .npy file; found '{name}'.")
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--mask: {path} cannot be read: {error}.") from None
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "biuf":
        raise UserError(
            f"--mask: {path} must hold numbers [tokens, d_ff]; found {values.dtype} {values.shape}."
        )
    return Mask(path.name, torch.from_numpy(values != 0))


def _random(d_ff: int, num_active: int, generator: torch.Generator) -> Tensor:
    mask_F = torch.zeros(d_ff, dtype=torch.bool)
    mask_F[torch.randperm(d_ff, generator=generator)[:num_active]] = True
    return mask_F


def _clustered(d_ff: int, num_active: int, generator: torch.Generator) -> Tensor:
    """Whole runs of neighbors, in random places; the last run is cut to the exact count."""
    runs = torch.randperm(math.ceil(d_ff / RUN_LENGTH), generator=generator)
    neurons = (runs[:, None] * RUN_LENGTH + torch.arange(RUN_LENGTH)).flatten()
    mask_F = torch.zeros(d_ff, dtype=torch.bool)
    mask_F[neurons[neurons < d_ff][:num_active]] = True
    return mask_F
