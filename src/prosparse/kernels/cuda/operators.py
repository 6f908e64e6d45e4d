# SPDX-License-Identifier: Apache-2.0
"""The operators on an NVIDIA GPU; what they compute is `prosparse.kernels.reference`.

The FFN is two kernels: `gate_up` (or `gate_up_tiles`, `screened_up`) leaves x_1 [T, F] in memory, a few kilobytes,
and `sparse_down` starts while it is still running and waits for it on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from prosparse.kernels.cuda import programs
from prosparse.kernels.cuda.launcher import architecture, launch
from prosparse.kernels.cuda.shape import Shape, weight_format
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.linear import MAX_TOGETHER
from prosparse.kernels.screen import Screen, certain_below

# Where there are no tiles (float32, odd widths), up to this many tokens have the gate's rows read by
# gate_up.cu; beyond, cuBLAS is faster, and sparse_up.cu goes on from there.
MAX_TOKENS_OF_GATE_UP = 4


def sparse_up(
    gate_pre: Tensor,
    x: Tensor,
    up_proj: Tensor,
    threshold: float = 0.0,
    weights_ready: bool = False,
) -> Tensor:
    """Step (2); see `prosparse.kernels.ops.sparse_up`."""
    weights = FFNWeights(up_proj, up_proj, up_proj, threshold=threshold)
    return _sparse_up(gate_pre, x, weights, weights_ready)


def sparse_down(x1: Tensor, down_projT: Tensor, weights_ready: bool = False) -> Tensor:
    """Step (3); see `prosparse.kernels.ops.sparse_down`."""
    weights = FFNWeights(down_projT, None, down_projT)
    return _sparse_down(x1, weights, None, False, follows=weights_ready)


def gate_up(x: Tensor, weights: FFNWeights, weights_ready: bool = False) -> Tensor:
    """Steps (1) and (2): the intermediate x_1 [T, F] of x [T, D], in the dtype of x."""
    x = _aligned(x)
    shape, d_model, up = _shape(x, weights), x.shape[1], weights.up_proj
    by_tiles = programs.gate_wants_tiles(shape, weights.gate_scales is not None)
    if not by_tiles and weights.gate_scales is None and len(x) > MAX_TOKENS_OF_GATE_UP:
        gate_pre = functional.linear(x, weights.gate_proj, weights.gate_bias)
        return _sparse_up(gate_pre, x, weights, weights_ready)
    gate_format = weight_format(weights.gate_proj, weights.gate_scales, d_model)
    up_format = weight_format(up, weights.up_scales, d_model)
    kinds = (up is not None, weights.up_relu, weights_ready)
    if by_tiles:
        program = programs.gate_up_tiles(shape, gate_format, up_format, *kinds)
    else:
        down_format = weight_format(weights.down_projT, weights.down_scales, d_model)
        program = programs.gate_up(shape, gate_format, up_format, down_format, *kinds)
    x1 = torch.empty(len(x), len(weights.gate_proj), dtype=x.dtype, device=x.device)
    launch(
        program,
        [
            x,
            weights.gate_proj,
            weights.gate_scales,
            weights.gate_bias,
            up,
            weights.up_scales,
            weights.up_bias,
            weights.down_projT,
            x1,
            rounded_to(weights.threshold, x.dtype),
            weights.shift,
        ],
    )
    return x1


def sparse_ffn(
    x: Tensor,
    weights: FFNWeights,
    residual: Tensor | None = None,
    float32_output: bool = False,
    weights_ready: bool = False,
) -> Tensor:
    """The whole FFN; see `prosparse.kernels.ops.sparse_ffn`."""
    x1 = gate_up(x, weights, weights_ready)
    return _sparse_down(x1, weights, residual, float32_output, follows=True)


def screened_ffn(
    x: Tensor,
    weights: FFNWeights,
    screen: Screen,
    residual: Tensor | None = None,
    float32_output: bool = False,
    weights_ready: bool = False,
) -> Tensor:
    """The whole FFN behind a screen; see `prosparse.kernels.ops.screened_ffn`."""
    if len(x) > 1:  # the screen would leave many candidates, and has no tensor cores
        return sparse_ffn(x, weights, residual, float32_output, weights_ready)
    x = _aligned(x)
    up = weights.up_proj
    program = programs.screened_up(
        _shape(x, weights),
        weight_format(up, weights.up_scales, x.shape[1]),
        up is not None,
        weights.up_relu,
        follows=weights_ready,
    )
    x1 = torch.empty(len(x), len(weights.gate_proj), dtype=x.dtype, device=x.device)
    launch(
        program,
        [
            x,
            screen.values,
            screen.scales,
            screen.bound,
            weights.gate_proj,
            weights.gate_bias,
            up,
            weights.up_scales,
            weights.up_bias,
            x1,
            rounded_to(weights.threshold, x.dtype),
            certain_below(weights.threshold, x.dtype),
        ],
    )
    return _sparse_down(x1, weights, residual, float32_output, follows=True)


def linears(x: Tensor, weights: Sequence[FFNWeights], weights_ready: bool = False) -> list[Tensor]:
    """Dense projections of one input; see `prosparse.kernels.linear.linears`."""
    if len(x) > MAX_TOKENS_OF_GATE_UP:
        return [gate_up(x, projection, weights_ready) for projection in weights]
    x, outputs = _aligned(x), []
    for first in range(0, len(weights), MAX_TOGETHER):
        together = weights[first : first + MAX_TOGETHER]
        outputs += _launch_together(x, together, weights_ready)
    return outputs


def rounded_to(value: float, dtype: torch.dtype) -> float:
    """Return a threshold as the activations' dtype has it."""
    return torch.tensor(value, dtype=dtype, device="cpu").item()


def _launch_together(x: Tensor, weights: Sequence[FFNWeights], follows: bool) -> list[Tensor]:
    rows = [len(projection.gate_proj) for projection in weights]
    aligned = all(projection.gate_proj.data_ptr() % 16 == 0 for projection in weights)
    capability = architecture(x.device.index or 0)
    shape = Shape(len(x), x.shape[1], sum(rows), x.dtype, aligned, capability)
    outputs = [torch.empty(len(x), count, dtype=x.dtype, device=x.device) for count in rows]
    arguments: list[Tensor | None] = []
    for projection, y in zip(weights, outputs, strict=True):
        arguments += [projection.gate_proj, projection.gate_bias, y]
    arguments += [None] * (3 * MAX_TOGETHER - len(arguments))
    launch(programs.linear(shape, tuple(rows), follows), [x, *arguments])
    return outputs


def _sparse_up(gate_pre: Tensor, x: Tensor, weights: FFNWeights, follows: bool) -> Tensor:
    x = _aligned(x)
    program = programs.sparse_up(
        _shape(x, weights),
        weight_format(weights.up_proj, weights.up_scales, x.shape[1]),
        weights.up_proj is not None,
        weights.up_relu,
        follows,
    )
    x1 = torch.empty(gate_pre.shape, dtype=x.dtype, device=x.device)
    launch(
        program,
        [
            gate_pre,
            x,
            weights.up_proj,
            weights.up_scales,
            weights.up_bias,
            x1,
            rounded_to(weights.threshold, x.dtype),
            weights.shift,
        ],
    )
    return x1


def _sparse_down(
    x1: Tensor, weights: FFNWeights, residual: Tensor | None, float32_output: bool, follows: bool
) -> Tensor:
    x1 = _aligned(x1)
    down, scales = weights.down_projT, weights.down_scales
    d_model = down.shape[1] * (2 if scales is not None and down.dtype == torch.uint8 else 1)
    shape = Shape(
        len(x1),
        d_model,
        len(down),
        x1.dtype,
        down.data_ptr() % 16 == 0,
        architecture(x1.device.index or 0),
    )
    program = programs.sparse_down(
        shape,
        weight_format(down, scales, d_model),
        follows,
        residual is not None and residual.dtype == torch.float32,
        float32_output,
    )
    dtype = torch.float32 if float32_output else x1.dtype
    y = torch.empty(len(x1), d_model, dtype=dtype, device=x1.device)
    launch(program, [x1, down, scales, weights.down_bias, residual, y])
    return y


def _shape(x: Tensor, weights: FFNWeights) -> Shape:
    matrices = (weights.gate_proj, weights.up_proj)
    return Shape(
        len(x),
        x.shape[1],
        len(weights.gate_proj),
        x.dtype,
        all(matrix is None or matrix.data_ptr() % 16 == 0 for matrix in matrices),
        architecture(x.device.index or 0),
    )


def _aligned(x: Tensor) -> Tensor:
    """Return x at a 16-byte boundary: a copy only where a view starts between two."""
    return x if x.data_ptr() % 16 == 0 else x.clone()
