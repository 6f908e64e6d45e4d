# SPDX-License-Identifier: Apache-2.0
"""Which constants each kernel is compiled with: the shape, the formats, and how work is cut.

The cuts were chosen by measuring on an H100 (`docs/kernels.md`). T tokens, D = d_model, F = d_ff.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from prosparse.kernels.cuda.launcher import Program
from prosparse.kernels.screen import GROUP_SIZE as SCREEN_GROUP

X_MACRO = {torch.bfloat16: "X_BF16", torch.float16: "X_FP16", torch.float32: "X_FP32"}
RUN = 16  # neurons of sparse_up.cu's and sparse_down.cu's shares that lie side by side


@dataclass(frozen=True, slots=True)
class Shape:
    """What all kernels of one FFN call have in common; hashable."""

    tokens: int
    d_model: int
    d_ff: int
    dtype: torch.dtype
    aligned: bool
    """Whether every row starts at a 16-byte boundary, so that 8 values are loaded at once."""
    capability: tuple[int, int]
    """Of the device, e.g. (9, 0)."""

    @property
    def vec(self) -> int:
        """Values of a row that a lane loads at once."""
        return 8 if self.aligned and self.d_model % 8 == 0 else 1


def weight_format(values: Tensor | None, scales: Tensor | None, d_model: int) -> str:
    """Return the C++ type that reads a matrix: `Dense`, `Int8<group>` or `Int4<group>`."""
    if values is None or scales is None:
        return "Dense"
    bits = 4 if values.dtype == torch.uint8 else 8
    return f"Int{bits}<{d_model // scales.shape[1]}>"


@functools.cache
def gate_up(shape: Shape, gate: str, up: str, has_up: bool, up_relu: bool) -> Program:
    """Steps (1) and (2): a warp for each neuron, in blocks as small as still fill the GPU."""
    warps = 2
    # As many warps as have the registers for all loads of a row each.
    blocks = 8 if shape.tokens == 1 else 4
    simple = shape.tokens == 1 and gate == up == "Dense" and shape.dtype != torch.float32
    constants = _constants(
        shape,
        GATE_FORMAT=gate,
        UP_FORMAT=up,
        HAS_UP=int(has_up),
        UP_RELU=int(up_relu),
        WARPS=warps,
        BLOCKS=blocks,
        LOADS=_loads(shape, 20 if simple else 8),
        FEW_REGISTERS=int(not simple),
    )
    return Program("gate_up", constants, (_ceil(shape.d_ff, warps), 1, 1), warps * 32)


@functools.cache
def screened_up(shape: Shape, up: str, has_up: bool, up_relu: bool) -> Program:
    """Steps (1) and (2) behind a screen: small batches, so that more warps wait at a time."""
    warps = 2
    wide = shape.d_model > 4096
    blocks = 4 if shape.tokens > 1 else 8 if wide else 10
    constants = _constants(
        shape,
        UP_FORMAT=up,
        HAS_UP=int(has_up),
        UP_RELU=int(up_relu),
        WARPS=warps,
        BLOCKS=blocks,
        LOADS=_loads(shape, 8),
        FEW_REGISTERS=1,
        SCREEN_GROUP=SCREEN_GROUP,
    )
    return Program("screened_up", constants, (_ceil(shape.d_ff, warps), 1, 1), warps * 32)


@functools.cache
def sparse_up(shape: Shape, up: str, has_up: bool, up_relu: bool) -> Program:
    """Step (2) alone."""
    warps, slice_ = 16, 48
    constants = _constants(
        shape,
        UP_FORMAT=up,
        HAS_UP=int(has_up),
        UP_RELU=int(up_relu),
        WARPS=warps,
        BLOCKS=2 if shape.tokens == 1 else 1,
        LOADS=_loads(shape, 16 if shape.tokens == 1 else 8),
        FEW_REGISTERS=0,
        SLICE=slice_,
    )
    return Program("sparse_up", constants, (_ceil(shape.d_ff, slice_), 1, 1), warps * 32)


@functools.cache
def sparse_down(
    shape: Shape, down: str, follows: bool, residual_float32: bool, float32_output: bool
) -> Program:
    """Step (3)."""
    warps = 8
    clusters = shape.capability >= (9, 0)
    tile = min(8, shape.tokens)
    # A warp reads pieces of rows of 8 * lanes values: as wide as leaves work for every multiprocessor.
    lanes = 8 if shape.d_model < 1024 else 16 if tile > 1 or shape.d_model < 4096 else 32
    unroll = {32: 6, 16: 4, 8: 2 if tile == 1 else 4}[lanes]
    # 16 blocks of a cluster need a data-center GPU; 8 work everywhere.
    largest = 16 if shape.capability in ((9, 0), (10, 0)) else 8
    splits = 1 if not clusters else 8 if shape.d_model < 1024 else largest
    share = _ceil(shape.d_ff, splits * RUN) * RUN
    looks = min(_ceil(share, warps * 32), 4 if tile > 1 else 8)
    constants = _constants(
        shape,
        DOWN_FORMAT=down,
        WARPS=warps,
        BLOCKS=2,
        LANES=lanes,
        UNROLL=unroll,
        LOOKS=looks,
        FEW_REGISTERS=0,
        SPLITS=splits,
        T_TILE=tile,
        RESIDUAL_FP32=int(residual_float32),
        OUTPUT_FP32=int(float32_output),
    )
    sums = tile * lanes * shape.vec
    listed = min(warps * 32 * looks, share)
    finished = _ceil(sums, splits)
    floats = warps * sums + (splits * finished + 4 if splits > 1 else 0)
    shared_bytes = 4 * (floats + listed + warps + 4) + shape.dtype.itemsize * tile * listed
    shared_bytes = _ceil(shared_bytes, 16) * 16
    return Program(
        "sparse_down",
        (*constants, ("SHARED_BYTES", shared_bytes)),
        (splits, _ceil(shape.d_model, lanes * shape.vec), _ceil(shape.tokens, tile)),
        warps * 32,
        shared_bytes,
        cluster=splits,
        follows=follows and clusters,
    )


def _loads(shape: Shape, most: int) -> int:
    """Loads of a row in flight for each lane: at most `most`, in batches of equal size."""
    most = most // 2 if shape.dtype == torch.float32 and shape.vec == 8 else most  # two loads each
    chunks = _ceil(shape.d_model, 32 * shape.vec)
    return _ceil(chunks, _ceil(chunks, most))


def _constants(shape: Shape, **constants: object) -> tuple[tuple[str, object], ...]:
    return (
        ("T", shape.tokens),
        ("D", shape.d_model),
        ("F", shape.d_ff),
        ("VEC", shape.vec),
        (X_MACRO[shape.dtype], None),
        *constants.items(),
    )


def _ceil(count: int, size: int) -> int:
    """How many pieces of `size` hold `count`."""
    return -(-count // size)
