# SPDX-License-Identifier: Apache-2.0
"""Tensors as GGUF holds them: what each is called, which type it has, and its bytes.

Nothing is held twice: a file's table of tensors is made from shapes alone, and its data are made one
tensor at a time as they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from prosparse.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from gguf import GGUFWriter
    from torch import Tensor

TensorType = Literal["f32", "f16", "q4_0"]
TENSOR_TYPES: tuple[TensorType, ...] = get_args(TensorType)
BLOCK = 32  # values of a row that share a scale in Q4_0
BLOCK_BYTES = 18


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor of a file, not made yet."""

    name: str
    shape: tuple[int, ...]
    """As PyTorch has it: GGUF lists it in reverse."""
    type: TensorType
    make: Callable[[], Tensor]


def write_gguf(writer: GGUFWriter, tensors: Sequence[NamedTensor]) -> None:
    """Write a file whose keys have been added, tensor by tensor, and close it."""
    for tensor in tensors:
        _announce(writer, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(_encoded(tensor))
    writer.close()


def new_writer(path: Path, architecture: str) -> GGUFWriter:
    """Return a writer for a new file.

    Raises:
        UserError: The package gguf is not installed.
    """
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise UserError("Writing GGUF files needs: pip install 'prosparse[gguf]'") from None
    return GGUFWriter(path, architecture)


def tensor_type(name: str) -> TensorType:
    """Return the type of a name.

    Raises:
        UserError: There is none.
    """
    for known in TENSOR_TYPES:
        if name == known:
            return known
    raise UserError(f"--type must be one of {', '.join(TENSOR_TYPES)}; found '{name}'.")


def check_rows(width: int, type: TensorType) -> None:
    """Raise unless rows of a width can have a type.

    Raises:
        UserError: They cannot.
    """
    if type == "q4_0" and width % BLOCK:
        raise UserError(f"Q4_0 takes rows of a multiple of {BLOCK} values; found {width}: use f16.")


def _announce(writer: GGUFWriter, tensor: NamedTensor) -> None:
    from gguf import GGMLQuantizationType

    count = int(np.prod(tensor.shape))
    if tensor.type == "q4_0":
        bytes_of_row = tensor.shape[-1] // BLOCK * BLOCK_BYTES
        shape = (*tensor.shape[:-1], bytes_of_row)
        num_bytes = count // BLOCK * BLOCK_BYTES
        raw = GGMLQuantizationType.Q4_0
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), num_bytes, raw)
    else:
        dtype = np.dtype(np.float32 if tensor.type == "f32" else np.float16)
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, count * dtype.itemsize)


def _encoded(tensor: NamedTensor) -> np.ndarray:
    values = tensor.make().detach().cpu().float().contiguous().numpy()
    assert values.shape == tensor.shape, (tensor.name, values.shape, tensor.shape)
    if tensor.type == "f32":
        return values
    if tensor.type == "f16":
        if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise UserError(f"{tensor.name} has values beyond float16; it cannot be exported.")
        return values.astype(np.float16)
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return quantize(values, GGMLQuantizationType.Q4_0)
