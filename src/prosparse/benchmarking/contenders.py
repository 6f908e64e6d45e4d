# SPDX-License-Identifier: Apache-2.0
"""Who takes part in the operator benchmark: one entry each, the runner is shared.

To add one, add an entry: how it is called on a layer copy, what its result is held against, and
which weights it must read. D = d_model, F = d_ff.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from prosparse.benchmarking import reference
from prosparse.benchmarking.entry import Contender
from prosparse.benchmarking.gate_contenders import gate_contenders
from prosparse.benchmarking.layers import Layer
from prosparse.benchmarking.timing import Call
from prosparse.kernels import ops
from prosparse.kernels.backend import Backend
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.quantize import dequantize, quantize
from prosparse.kernels.screen import GROUP_SIZE, candidates, make_screen
from prosparse.runtime.compiled import compile_step

SCALE_BYTES = 2


def contenders(device: torch.device, backends: tuple[Backend, ...]) -> list[Contender]:
    """Return all that can take part on a device, dense baselines first.

    Args:
        device: On a CPU nothing is compiled.
        backends: Of the sparse operators, best first; the variants run on the first.
    """
    found = [*_dense(), *([_compiled(device)] if device.type == "cuda" else [])]
    if device.type == "cpu":
        found += gate_contenders(backends[0])
    for backend in backends:
        found += [_sparse_up(backend), _sparse_down(backend), _sparse_ffn(backend)]
    best = backends[0]
    return [
        *found,
        _float32_output(best),
        _screened(best),
        _quantized(best, 8),
        _quantized(best, 4),
    ]


def _dense() -> list[Contender]:
    library = "cuBLAS" if torch.version.cuda else "torch"
    return [
        Contender(
            f"{library}, dense",
            "up",
            lambda layer: lambda: F.linear(layer.x, layer.up_proj),
            reference.dense_up,
            lambda layer: _size(layer.up_proj),
            is_dense=True,
        ),
        Contender(
            f"{library}, dense",
            "down",
            lambda layer: lambda: F.linear(layer.x1, layer.down_proj),
            reference.down,
            lambda layer: _size(layer.down_proj),
            is_dense=True,
        ),
        Contender(
            f"{library}, dense",
            "ffn",
            lambda layer: functools.partial(_dense_ffn, *_dense_arguments(layer)),
            reference.whole_ffn,
            _whole_size,
            is_dense=True,
        ),
    ]


def _compiled(device: torch.device) -> Contender:
    # CUDA graphs of its own are off: it is captured in the same kind of graph as all others.
    ffn = compile_step(_dense_ffn, "max-autotune-no-cudagraphs", device)
    return Contender(
        "torch.compile, dense",
        "ffn",
        lambda layer: functools.partial(ffn, *_dense_arguments(layer)),
        reference.whole_ffn,
        _whole_size,
        is_dense=True,
        is_compiled=True,
    )


def _sparse_up(backend: Backend) -> Contender:
    return Contender(
        f"sparse_up, {backend}",
        "up",
        lambda layer: functools.partial(
            ops.sparse_up, layer.gate_pre, layer.x, layer.up_proj, weights_ready=True
        ),
        reference.sparse_up,
        lambda layer: _active(layer) * _size(layer.up_proj),
        backend,
    )


def _sparse_down(backend: Backend) -> Contender:
    return Contender(
        f"sparse_down, {backend}",
        "down",
        lambda layer: functools.partial(
            ops.sparse_down, layer.x1, layer.down_projT, weights_ready=True
        ),
        reference.down,
        lambda layer: _active(layer) * _size(layer.down_projT),
        backend,
    )


def _sparse_ffn(backend: Backend) -> Contender:
    return Contender(
        f"sparse_ffn, {backend}",
        "ffn",
        lambda layer: functools.partial(
            ops.sparse_ffn, layer.x, _weights(layer), weights_ready=True
        ),
        reference.whole_ffn,
        _sparse_size,
        backend,
    )


def _float32_output(backend: Backend) -> Contender:
    """The form a runtime would use: the residual added in float32, nothing rounded at the end."""

    def residual(layer: Layer) -> Tensor:
        # As large as y: a residual much larger would hide errors, and its value costs nothing.
        return reference.whole_ffn(layer).to(layer.x.dtype)

    return Contender(
        f"sparse_ffn to float32, {backend}",
        "ffn",
        lambda layer: functools.partial(
            ops.sparse_ffn,
            layer.x,
            _weights(layer),
            residual=residual(layer),
            float32_output=True,
            weights_ready=True,
        ),
        lambda layer: reference.whole_ffn(layer) + residual(layer).float(),
        _sparse_size,
        backend,
    )


def _screened(backend: Backend) -> Contender:
    def build(layer: Layer) -> Call:
        screen = make_screen(layer.gate_proj)
        return functools.partial(
            ops.screened_ffn, layer.x, _weights(layer), screen, weights_ready=True
        )

    def num_bytes(layer: Layer) -> float:
        """The screen, the full rows it cannot rule out, and the active rows of up and down."""
        screen = make_screen(layer.gate_proj)
        verified = float(candidates(layer.x, screen).any(dim=0).float().mean())
        matrix = _size(layer.gate_proj)
        return (
            _size(screen.values) + _size(screen.scales) + (verified + 2 * _active(layer)) * matrix
        )

    return Contender(
        f"screened_ffn, {backend}",
        "ffn",
        build,
        reference.whole_ffn,
        num_bytes,
        backend,
        why_not=_why_not_in_groups,
    )


def _quantized(backend: Backend, bits: int) -> Contender:
    def matrices(layer: Layer) -> list[tuple[Tensor, Tensor]]:
        up, down = (
            layer.keep(f"{name}, {bits} bits", lambda m=matrix: quantize(m, bits, GROUP_SIZE))
            for name, matrix in (("up", layer.up_proj), ("down", layer.down_projT))
        )
        return [quantize(layer.gate_proj, bits, GROUP_SIZE), up, down]

    def build(layer: Layer) -> Call:
        (gate, gate_scales), (up, up_scales), (down, down_scales) = matrices(layer)
        weights = FFNWeights(gate, up, down, gate_scales, up_scales, down_scales)
        return functools.partial(ops.sparse_ffn, layer.x, weights, weights_ready=True)

    def num_bytes(layer: Layer) -> float:
        # Rounded weights have active neurons of their own, a few more than the mask's.
        gate = dequantize(*quantize(layer.gate_proj, bits, GROUP_SIZE))
        active = float((layer.x.float() @ gate.T > 0).any(dim=0).float().mean())
        return (1 + 2 * active) * gate.numel() * (bits / 8 + SCALE_BYTES / GROUP_SIZE)

    return Contender(
        f"sparse_ffn, int{bits} weights, {backend}",
        "ffn",
        build,
        lambda layer: reference.ffn(layer.x, *(dequantize(*pair) for pair in matrices(layer))),
        num_bytes,
        backend,
        weight_bits=bits,
        why_not=_why_not_in_groups,
    )


def _dense_ffn(x: Tensor, gate_proj: Tensor, up_proj: Tensor, down_proj: Tensor) -> Tensor:
    return F.linear(F.relu(F.linear(x, gate_proj)) * F.linear(x, up_proj), down_proj)


def _dense_arguments(layer: Layer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return layer.x, layer.gate_proj, layer.up_proj, layer.down_proj


def _why_not_in_groups(layer: Layer) -> str | None:
    d_model = layer.gate_proj.shape[1]
    if d_model % GROUP_SIZE == 0:
        return None
    return f"d_model {d_model} is no multiple of {GROUP_SIZE}, the weights that share a scale"


def _weights(layer: Layer) -> FFNWeights:
    return FFNWeights(layer.gate_proj, layer.up_proj, layer.down_projT)


def _active(layer: Layer) -> float:
    """Share of neurons that at least one token needs."""
    return float(layer.mask.any(dim=0).float().mean())


def _whole_size(layer: Layer) -> float:
    return 3 * _size(layer.gate_proj)


def _sparse_size(layer: Layer) -> float:
    return (1 + 2 * _active(layer)) * _size(layer.gate_proj)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
