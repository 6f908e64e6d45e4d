# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels on the device, and their launch on PyTorch's current stream."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prosparse.kernels.cuda.compiler import compile_cubin

Grid = tuple[int, int, int]
SHARED_PERCENT_OF_L1 = 40


@dataclass(frozen=True, slots=True)
class Program:
    """One kernel of one source file, compiled for constants; hashable, so that it is loaded once."""

    source: str
    """Name of the source, and of its kernel."""
    constants: tuple[tuple[str, object], ...]
    grid: Grid
    """Blocks along x, y, z."""
    threads: int
    """Threads of a block."""
    shared_bytes: int = 0
    """Dynamic shared memory of a block."""
    cluster: int = 1
    """Blocks of a cluster, along x; 1 is none."""
    follows: bool = False
    """Start while the kernel before still runs (programmatic dependent launch, from sm_90 on)."""


def launch(program: Program, arguments: Sequence[Tensor | float | None]) -> None:
    """Launch on the current stream of the tensors' device.

    Args:
        program: The kernel.
        arguments: What the kernel takes, in order: tensors (their address), None (a null pointer),
            numbers (float32).

    Raises:
        RuntimeError: The driver refused; the message has its error.
    """
    from cuda.bindings import driver

    device = next(a.device for a in arguments if isinstance(a, Tensor))
    index = device.index if device.index is not None else torch.cuda.current_device()
    function, attributes = _load(program, index)
    values: list[float | int] = []
    types: list[Any] = []
    for argument in arguments:
        if isinstance(argument, float):
            values.append(argument)
            types.append(ctypes.c_float)
        else:
            values.append(0 if argument is None else argument.data_ptr())
            types.append(ctypes.c_void_p)
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = program.grid
    config.blockDimX, config.blockDimY, config.blockDimZ = program.threads, 1, 1
    config.sharedMemBytes = program.shared_bytes
    config.hStream = torch.cuda.current_stream(index).cuda_stream
    config.attrs = attributes
    config.numAttrs = len(attributes)
    with torch.cuda.device(index):
        (status,) = driver.cuLaunchKernelEx(config, function, (tuple(values), tuple(types)), 0)
    check(status)


@functools.cache
def architecture(index: int) -> tuple[int, int]:
    """Return the compute capability of a device, e.g. (9, 0)."""
    return torch.cuda.get_device_capability(index)


@functools.cache
def _load(program: Program, index: int) -> tuple[Any, list[Any]]:
    """Return the kernel on the device and its launch attributes."""
    from cuda.bindings import driver

    major, minor = architecture(index)
    cubin = compile_cubin(program.source, dict(program.constants), f"sm_{major}{minor}")
    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # makes the device's context current
        status, module = driver.cuModuleLoadData(cubin)
        check(status)
        status, function = driver.cuModuleGetFunction(module, program.source.encode())
        check(status)
        # All kernels divide L1 in the same way: a kernel that wants another division must wait until
        # the one before has left the multiprocessor, and the two could not overlap.
        division = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
        check(*driver.cuFuncSetAttribute(function, division, SHARED_PERCENT_OF_L1))
        if program.shared_bytes:
            most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check(*driver.cuFuncSetAttribute(function, most, program.shared_bytes))
        if program.cluster > 8:
            larger = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
            check(*driver.cuFuncSetAttribute(function, larger, 1))
    return function, _attributes(program)


def _attributes(program: Program) -> list[Any]:
    from cuda.bindings import driver

    attributes = []
    if program.cluster > 1:
        cluster = driver.CUlaunchAttribute()
        cluster.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        cluster.value.clusterDim.x = program.cluster
        cluster.value.clusterDim.y = cluster.value.clusterDim.z = 1
        attributes.append(cluster)
    if program.follows:
        follows = driver.CUlaunchAttribute()
        follows.id = (
            driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        )
        follows.value.programmaticStreamSerializationAllowed = 1
        attributes.append(follows)
    return attributes


def check(status: Any, *_: Any) -> None:
    """Raise unless a driver call succeeded."""
    from cuda.bindings import driver

    if status != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(status)
        raise RuntimeError(f"CUDA: {text.decode() if text else status}.")
