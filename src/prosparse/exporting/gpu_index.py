# SPDX-License-Identifier: Apache-2.0
"""Which neurons PowerInfer keeps on its GPU: counts of how often each fires, and a choice by them.

`activation/activation_N.pt` holds the counts of a layer, int64 [F]: what PowerInfer's own solver reads.
`<model>.generated.gpuidx` is its answer, a file of its own that the engine reads in place of solving: for
each layer `gpu_idx` (int32 [F], 1 where the neuron is on the GPU) and `gpu_bucket` (their numbers, rising).
All neurons of a model are of one size, so the most active ones are the best choice for any room.
F = d_ff, L layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from prosparse.exporting.powerinfer import set_magic
from prosparse.exporting.tensors import new_writer
from prosparse.measurement.passes import Passes
from prosparse.model.ffn import ffns
from prosparse.model.tap import tap

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURE = "generic.gpu_index"
CAPACITY_KEY = "split.vram_capacity"
FOLDER_NAME = "activation"


def count_firing(passes: Passes) -> Tensor:
    """Return how often each neuron fires on some text, int64 [L, F]."""
    found = ffns(passes.model)
    counts_LF = torch.zeros(
        len(found), found[0].d_ff, dtype=torch.int64, device=passes.model.device
    )

    def count(layer: int, x1: Tensor) -> None:
        counts_LF[layer] += (x1 != 0).reshape(-1, x1.shape[-1]).sum(dim=0)

    with tap(found, count):
        passes.run("counting ")
    return counts_LF.cpu()


def write_counts(counts_LF: Tensor, folder: Path) -> None:
    """Write the counts of each layer as PowerInfer's solver reads them."""
    (folder / FOLDER_NAME).mkdir()
    for layer, counts_F in enumerate(counts_LF):
        torch.save(counts_F.clone(), folder / FOLDER_NAME / f"activation_{layer}.pt")


def most_active(counts_LF: Tensor, num_neurons: int) -> list[Tensor]:
    """Return the numbers of the chosen neurons of each layer, rising; at least one each.

    The engine reads a tensor of them for every layer, and a tensor of none is not to be had.
    """
    num_layers, d_ff = counts_LF.shape
    order = counts_LF.flatten().argsort(descending=True, stable=True)
    first = counts_LF.argmax(dim=1) + torch.arange(num_layers) * d_ff
    room = max(0, num_neurons - num_layers)
    others = order[~torch.isin(order, first)][:room]
    chosen = torch.cat([first, others])
    return [(chosen[chosen // d_ff == layer] % d_ff).sort().values for layer in range(num_layers)]


def write_gpu_index(counts_LF: Tensor, path: Path, *, capacity: int, bytes_of_neuron: int) -> None:
    """Write the file of neurons that a GPU holds.

    Args:
        counts_LF: How often each neuron fires.
        path: The file.
        capacity: Bytes of the GPU's memory for neurons.
        bytes_of_neuron: Of one neuron's rows.
    """
    chosen = most_active(counts_LF, capacity // bytes_of_neuron)
    writer = new_writer(path, ARCHITECTURE)
    writer.add_block_count(len(chosen))
    writer.add_uint64(CAPACITY_KEY, capacity)
    for layer, neurons in enumerate(chosen):
        on_gpu = torch.zeros(counts_LF.shape[1], dtype=torch.int32)
        on_gpu[neurons] = 1
        writer.add_tensor(f"blk.{layer}.gpu_idx", on_gpu.numpy())
        writer.add_tensor(f"blk.{layer}.gpu_bucket", neurons.numpy().astype(np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    set_magic(path)
