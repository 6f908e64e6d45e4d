# SPDX-License-Identifier: Apache-2.0
"""Read exported files back with the package gguf, which knows nothing of ours."""

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


def read(path):
    """Return (keys, tensors as (type, shape in PyTorch's order, values))."""
    data = bytearray(path.read_bytes())
    if data[:4] == b"PWRI":  # all else is plain GGUF
        data[:4] = b"GGUF"
        path = path.with_suffix(".plain")
        path.write_bytes(data)
    reader = GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {}
    for tensor in reader.tensors:
        is_int = tensor.tensor_type.name == "I32"
        values = tensor.data if is_int else dequantize(tensor.data, tensor.tensor_type)
        shape = tuple(int(n) for n in reversed(tensor.shape))
        tensors[tensor.name] = (tensor.tensor_type.name, shape, np.asarray(values, np.float32))
    return keys, tensors
