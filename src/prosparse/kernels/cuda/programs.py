# SPDX-License-Identifier: Apache-2.0
"""Which constants each kernel is compiled with: the shape, the formats, and how work is cut.

The cuts were chosen by measuring on an H100 (`docs/kernels.md`). T tokens, D = d_model, F = d_ff.
"""

from __future__ import annotations

import functools

import torch

from prosparse.kernels.cuda.launcher import Program
from prosparse.kernels.cuda.shape import Shape
from prosparse.kernels.screen import GROUP_SIZE as SCREEN_GROUP

X_MACRO = {torch.bfloat16: "X_BF16", torch.float16: "X_FP16", torch.float32: "X_FP32"}
DATA_CENTER = ((9, 0), (10, 0))  # capabilities
# From so many tokens on, tensor cores are faster than one multiplication at a time; later for the gate
# where its weights need no unpacking.
LEAST_TOKENS_OF_TILES = 3
LEAST_TOKENS_OF_GATE_TILES = 5
RUN = 16  # neurons of sparse_down.cu's shares that lie side by side


@functools.cache
def gate_up(
    shape: Shape,
    gate: str,
    up: str,
    down: str,
    has_up: bool,
    up_relu: bool,
    follows: bool = False,
) -> Program:
    """Steps (1) and (2): a warp for each neuron, in blocks as small as still fill the GPU."""
    follows = follows and shape.overlaps
    warps = 2
    # As many warps as have the registers for all loads of a row each.
    blocks = 8 if shape.tokens == 1 else 4
    one_dense = shape.tokens == 1 and gate == up == "Dense"
    simple = one_dense and shape.dtype != torch.float32
    small = one_dense and down == "Dense" and has_up and shape.is_narrow and shape.vec == 8
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
        SMALL=int(small),
        FOLLOWS=int(follows),
        FETCHES_FIRST=int(follows and shape.is_narrow),
    )
    grid = (_ceil(shape.d_ff, warps), 1, 1)
    return Program("gate_up", constants, grid, warps * 32, follows=follows)


@functools.cache
def linear(shape: Shape, rows: tuple[int, ...], follows: bool = False) -> Program:
    """Dense projections of one input, with so many rows each: a warp for each row."""
    follows = follows and shape.overlaps
    warps = 2
    first, second = (*rows, 0)[:2]
    simple = shape.tokens == 1 and shape.dtype != torch.float32
    constants = _constants(
        shape,
        F0=first,
        F1=second,
        WARPS=warps,
        BLOCKS=8 if shape.tokens == 1 else 4,
        LOADS=_loads(shape, 20 if simple else 8),
        FEW_REGISTERS=int(not simple),
        FOLLOWS=int(follows),
        FETCHES_FIRST=int(follows and shape.is_narrow),
    )
    grid = (_ceil(shape.d_ff, warps), 1, 1)
    return Program("linear", constants, grid, warps * 32, follows=follows)


def gate_wants_tiles(shape: Shape, quantized: bool) -> bool:
    """Whether `gate_up_tiles` is faster than `gate_up`."""
    least = LEAST_TOKENS_OF_TILES if quantized else LEAST_TOKENS_OF_GATE_TILES
    return shape.has_tiles and shape.tokens >= least


@functools.cache
def gate_up_tiles(
    shape: Shape, gate: str, up: str, has_up: bool, up_relu: bool, follows: bool = False
) -> Program:
    """Steps (1) and (2) on tensor cores: a block for 8 neurons; see `Shape.has_tiles`."""
    follows = follows and shape.overlaps
    warps, neurons = 4, 8
    constants = _constants(
        shape,
        GATE_FORMAT=gate,
        UP_FORMAT=up,
        HAS_UP=int(has_up),
        UP_RELU=int(up_relu),
        WARPS=warps,
        BLOCKS=4,
        LOADS=8,
        FEW_REGISTERS=1,
        FOLLOWS=int(follows),
        FETCHES_FIRST=int(follows and shape.is_narrow),
    )
    grid = (_ceil(shape.d_ff, neurons), 1, 1)
    return Program("gate_up_tiles", constants, grid, warps * 32, follows=follows)


@functools.cache
def screened_up(
    shape: Shape, up: str, has_up: bool, up_relu: bool, follows: bool = False
) -> Program:
    """Steps (1) and (2) behind a screen: small batches, so that more warps wait at a time."""
    follows = follows and shape.overlaps
    warps = 2
    wide = shape.d_model > 4096
    blocks = 8 if wide else 10
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
        FOLLOWS=int(follows),
        FETCHES_FIRST=int(follows and shape.is_narrow),
    )
    grid = (_ceil(shape.d_ff, warps), 1, 1)
    return Program("screened_up", constants, grid, warps * 32, follows=follows)


@functools.cache
def sparse_up(shape: Shape, up: str, has_up: bool, up_relu: bool, follows: bool = False) -> Program:
    """Step (2) alone: blocks small enough that all have a place at once, with registers for whole rows."""
    follows = follows and shape.overlaps
    if shape.tokens > 1:
        warps, slice_, blocks = 16, 48, 1
    else:
        warps, slice_, blocks = (4, 8, 6) if shape.d_model >= 4096 else (8, 16, 2)
    constants = _constants(
        shape,
        UP_FORMAT=up,
        HAS_UP=int(has_up),
        UP_RELU=int(up_relu),
        WARPS=warps,
        BLOCKS=blocks,
        LOADS=_loads(shape, 16 if shape.tokens == 1 else 8),
        FEW_REGISTERS=0,
        SLICE=slice_,
        RUN=min(RUN, slice_),
        FOLLOWS=int(follows),
        FETCHES_FIRST=0,
    )
    grid = (_ceil(shape.d_ff, slice_), 1, 1)
    return Program("sparse_up", constants, grid, warps * 32, follows=follows)


@functools.cache
def sparse_down(
    shape: Shape, down: str, follows: bool, residual_float32: bool, float32_output: bool
) -> Program:
    """Step (3)."""
    follows = follows and shape.overlaps
    by_tiles = down == "Dense" and shape.has_tiles and shape.tokens >= LEAST_TOKENS_OF_TILES
    cut = _down_by_tiles(shape) if by_tiles else _down_by_rows(shape)
    splits = cut["SPLITS"] = cut["SPLITS"] if shape.overlaps else 1
    share = _ceil(shape.d_ff, splits * RUN) * RUN
    at_once = cut["WARPS"] * 32 * (8 if by_tiles else 1)
    cut["LOOKS"] = min(_ceil(share, at_once), cut["LOOKS"])
    columns = cut["LANES"] * shape.vec
    # As the structs `Shared` of csrc/down_rows.cuh and csrc/down_tiles.cuh have it.
    listed = min(at_once * cut["LOOKS"], share)
    list_bytes = (4 + shape.dtype.itemsize * cut["T_TILE"]) * listed
    sums_bytes = 4 * cut["WARPS"] * cut["T_TILE"] * columns
    arrivals_bytes = 4 * splits * _ceil(cut["T_TILE"] * columns, splits) + 16 if splits > 1 else 8
    together = max(list_bytes, sums_bytes) if by_tiles else list_bytes + sums_bytes
    shared_bytes = _ceil(together + arrivals_bytes + 4 * cut["WARPS"] + 16, 16) * 16
    constants = _constants(
        shape,
        DOWN_FORMAT=down,
        TILES=int(by_tiles),
        FEW_REGISTERS=0,
        RESIDUAL_FP32=int(residual_float32),
        OUTPUT_FP32=int(float32_output),
        SHARED_BYTES=shared_bytes,
        FOLLOWS=int(follows),
        FETCHES_FIRST=0,
        **cut,
    )
    return Program(
        "sparse_down",
        constants,
        (splits, _ceil(shape.d_model, columns), _ceil(shape.tokens, cut["T_TILE"])),
        cut["WARPS"] * 32,
        shared_bytes,
        cluster=splits,
        follows=follows,
    )


def _down_by_rows(shape: Shape) -> dict[str, int]:
    tile = min(8, shape.tokens)
    # A warp reads pieces of rows of 8 * lanes values: as wide as leaves work for every multiprocessor.
    lanes = 8 if shape.d_model < 1024 else 16 if tile > 1 or shape.d_model < 4096 else 32
    # 16 blocks of a cluster need a data-center GPU; 8 work everywhere.
    largest = 16 if shape.capability in DATA_CENTER else 8
    return {
        "WARPS": 8,
        "BLOCKS": 2,
        "LANES": lanes,
        "UNROLL": {32: 6, 16: 4, 8: 2 if tile == 1 else 4}[lanes],
        "LOOKS": 4 if tile > 1 else 8,
        "SPLITS": 8 if shape.d_model < 1024 else largest,
        "T_TILE": tile,
    }


def _down_by_tiles(shape: Shape) -> dict[str, int]:
    many = shape.tokens > 8
    return {
        "WARPS": 4,
        "BLOCKS": 3 if many else 4,
        "LANES": 8,
        "UNROLL": 2 if many else 3,
        "LOOKS": 1,
        "SPLITS": 16 if many and shape.capability in DATA_CENTER else 8,
        "T_TILE": shape.tokens,
    }


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
