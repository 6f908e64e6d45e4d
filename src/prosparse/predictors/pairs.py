# SPDX-License-Identifier: Apache-2.0
"""Pairs on disk: what each FFN was given, and which of its neurons were active for it.

A folder holds for each layer memory-mapped files without headers, a row for each token:

    inputs_N.f16    float16 [rows, D]: what the predictor reads; residuals divided by their root mean
                    square, which changes a predictor's logits by a positive factor only
    shares_N.u8     uint8 [rows, F]: 0 where a neuron is inactive, else its share of the FFN's output,
                    |x_1j| ||down_proj[:, j]|| / ||y||, eight codes for a factor of two
    values_N.f16    float16 [sample, F]: x_1 of the first validation rows

and `meta.json`, which is written last: a folder without it was not finished. The last twentieth of the
rows is for validation (Appendix F). D = d_model, F = d_ff.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from prosparse.errors import UserError
from prosparse.records.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

META_NAME = "meta.json"
VALIDATION_SHARE = 0.05
MOST_VALUES = 2048
"""Validation rows whose x_1 is kept, to weigh what a predictor misses."""
DROPPED_BITS = 20
CODE_OFFSET = (127 << 3) - 223  # so that 1 is 223


@dataclass(frozen=True)
class Layout:
    """The sizes of a folder of pairs, and what they are of."""

    rows: int
    num_layers: int
    d_model: int
    d_ff: int
    reads: str
    """`ffn-input` or `residual`."""
    made_from: str
    """Model, data and their sizes: pairs of anything else are not reused."""

    @property
    def num_validation(self) -> int:
        """Rows at the end that are not trained on."""
        return max(1, round(self.rows * VALIDATION_SHARE))

    @property
    def num_train(self) -> int:
        """Rows to train on."""
        return self.rows - self.num_validation

    @property
    def num_values(self) -> int:
        """Rows from `num_train` on whose x_1 is kept."""
        return min(MOST_VALUES, self.num_validation)

    @cached_property
    def num_bytes(self) -> int:
        """What the folder takes on disk."""
        pairs = self.rows * (2 * self.d_model + self.d_ff)
        return self.num_layers * (pairs + 2 * self.num_values * self.d_ff)


def refuse_too_large(layout: Layout, folder: Path) -> None:
    """Raise unless there is room for the pairs.

    Raises:
        UserError: The disk has too little left.
    """
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if layout.num_bytes > free:
        raise UserError(
            f"{layout.rows} rows of {layout.num_layers} layers take {layout.num_bytes / 1e9:.1f} GB and "
            f"{nearest} has {free / 1e9:.1f} GB left; ask for fewer --rows or another --out."
        )


class PairWriter:
    """Writes pairs as they come, each layer at its own pace.

    Args:
        folder: Made if it is not there.
        layout: The sizes.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._layout = folder, layout
        self._inputs, self._shares, self._values = (
            [open_map(folder, name, layout, layer, "w+") for layer in range(layout.num_layers)]
            for name in ("inputs", "shares", "values")
        )

    def write(
        self, layer: int, first: int, inputs_TD: Tensor, x1_TF: Tensor, shares_TF: Tensor
    ) -> None:
        """Write the pairs of some tokens from row `first` on; rows beyond the last are dropped.

        Args:
            layer: Whose pairs.
            first: Row of the first token.
            inputs_TD: What the predictor reads.
            x1_TF: The intermediate.
            shares_TF: Its neurons' shares of the output, 0 where they are inactive.

        Raises:
            UserError: An input does not fit into float16, or is not finite.
        """
        count = min(len(inputs_TD), self._layout.rows - first)
        if count <= 0:
            return
        rows = inputs_TD[:count].float()
        if self._layout.reads == "residual":
            rows = rows * rows.square().mean(dim=1, keepdim=True).clamp_min(1e-30).rsqrt()
        rows = rows.half()
        if not rows.isfinite().all():
            raise UserError(
                f"What goes into the FFN of layer {layer} is not finite, or beyond float16: no pairs "
                "can be collected of this model."
            )
        self._inputs[layer][first : first + count] = rows.cpu().numpy()
        self._shares[layer][first : first + count] = encode_shares(shares_TF[:count]).cpu().numpy()
        start = self._layout.num_train
        low, high = max(first, start), min(first + count, start + self._layout.num_values)
        if low < high:
            kept = x1_TF[low - first : high - first].float().clamp(-65504, 65504).half()
            self._values[layer][low - start : high - start] = kept.cpu().numpy()

    def finish(self) -> None:
        """Say that all rows are there."""
        for maps in (self._inputs, self._shares, self._values):
            for file in maps:
                file.flush()
        write_whole(self._folder / META_NAME, json.dumps(asdict(self._layout), indent=1) + "\n")


class Pairs:
    """Finished pairs.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.layout = Layout(**json.loads((folder / META_NAME).read_text(encoding="utf-8")))

    def inputs(self, layer: int, *, train: bool) -> Tensor:
        """Return the inputs of a layer, float16 [rows, D], memory-mapped."""
        return torch.from_numpy(self._rows(layer, "inputs", train))

    def shares(self, layer: int, *, train: bool) -> Tensor:
        """Return the coded shares of a layer, uint8 [rows, F], memory-mapped; 0 is inactive."""
        return torch.from_numpy(self._rows(layer, "shares", train))

    def values(self, layer: int) -> Tensor:
        """Return x_1 of the first validation rows of a layer, float32 [sample, F]."""
        found = open_map(self._folder, "values", self.layout, layer, "c")
        return torch.from_numpy(found).float()

    def _rows(self, layer: int, name: str, train: bool) -> np.ndarray:
        # copy on write: PyTorch wants memory that it could write to
        found = open_map(self._folder, name, self.layout, layer, "c")
        start = self.layout.num_train
        return found[:start] if train else found[start:]


def finished_pairs(folder: Path, layout: Layout) -> Pairs | None:
    """Return the pairs of a folder if they are whole and what is asked for, else None."""
    if not (folder / META_NAME).is_file():
        return None
    pairs = Pairs(folder)
    return pairs if pairs.layout == layout else None


def encode_shares(shares: Tensor) -> Tensor:
    """Return shares >= 0 as bytes: 0 for 0, else 1 to 255, eight for a factor of two.

    A code is the exponent and the first three bits of the mantissa of a float32.
    """
    codes = (shares.float().view(torch.int32) >> DROPPED_BITS).sub_(CODE_OFFSET).clamp_(1, 255)
    return codes.mul_(shares != 0).to(torch.uint8)


def decode_shares(codes: Tensor) -> Tensor:
    """Return the shares of bytes, float32, within 6 % from 2^-27 to 2^4."""
    bits = ((codes.int() + CODE_OFFSET) << DROPPED_BITS) + (1 << (DROPPED_BITS - 1))
    return bits.view(torch.float32) * (codes != 0)


def open_map(folder: Path, name: str, layout: Layout, layer: int, mode: str) -> np.memmap:
    """Return one file of a layer as an array."""
    suffix, dtype, shape = {
        "inputs": ("f16", np.float16, (layout.rows, layout.d_model)),
        "shares": ("u8", np.uint8, (layout.rows, layout.d_ff)),
        "values": ("f16", np.float16, (layout.num_values, layout.d_ff)),
    }[name]
    path = folder / f"{name}_{layer}.{suffix}"
    return np.memmap(path, dtype=dtype, mode=mode, shape=shape)  # type: ignore[call-overload]
