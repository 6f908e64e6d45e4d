# SPDX-License-Identifier: Apache-2.0
"""The operators on a CPU; what they compute is `prosparse.kernels.reference`.

One call of the library runs all steps it is asked for on its threads: the gate's rows in pieces,
then the list of neurons that some token needs, then their rows of `up_proj`, then columns of their rows
of `down_projT`. x_1 never becomes a tensor unless asked for.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prosparse.kernels import reference
from prosparse.kernels.checks import checked_ffn
from prosparse.kernels.cpu.jobs import prepared
from prosparse.kernels.cpu.library import Job, Matrix, library
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.projections import checked_projection

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3, torch.uint8: 4}
MAX_TOGETHER = 8  # projections of one call, as in csrc/job.h
BLOCK = 32  # values that the kernels unpack at once; a group is whole blocks


def sparse_up(gate_pre: Tensor, x: Tensor, up_proj: Tensor, threshold: float = 0.0) -> Tensor:
    """Step (2); see `prosparse.kernels.ops.sparse_up`."""
    x1 = torch.empty(gate_pre.shape, dtype=x.dtype)
    job = _job(x, len(up_proj), threshold)
    job.gate_pre, job.x1, job.up = gate_pre.data_ptr(), x1.data_ptr(), matrix(up_proj, None)
    _run(job)
    return x1


def sparse_down(x1: Tensor, down_projT: Tensor) -> Tensor:
    """Step (3); see `prosparse.kernels.ops.sparse_down`."""
    y = torch.empty(len(x1), down_projT.shape[1], dtype=x1.dtype)
    job = _job(y, len(down_projT), -math.inf)
    # x_1 is handed in as a gate from which nothing is cut off.
    job.x, job.gate_pre, job.y = None, x1.data_ptr(), y.data_ptr()
    job.down = matrix(down_projT, None)
    _run(job)
    return y


def gate_up(x: Tensor, weights: FFNWeights) -> Tensor:
    """Steps (1) and (2): the intermediate x_1 [T, F] of x [T, D], in the dtype of x."""
    if not _has_whole_blocks(weights):
        return reference.gate_up(x, weights)
    x1 = torch.empty(len(x), len(weights.gate_proj), dtype=x.dtype)
    job = _job_of(x, weights)
    job.x1 = x1.data_ptr()
    _run(job)
    return x1


def linears(
    x: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
) -> list[Tensor]:
    """Dense projections of one input; see `prosparse.kernels.linear.linears`."""
    if len(weights) > MAX_TOGETHER:
        first, rest = slice(MAX_TOGETHER), slice(MAX_TOGETHER, None)
        found = linears(x, weights[first], scales[first], biases[first])
        return found + linears(x, weights[rest], scales[rest], biases[rest])
    tensors = (*weights, *scales, *biases)
    jobs = prepared(x, tensors, lambda: projection_jobs(x, weights, scales, biases))
    if jobs is None:
        parts = zip(weights, scales, biases, strict=True)
        return [reference.gate_up(x, checked_projection(x, *each)) for each in parts]
    outputs = [x.new_empty(len(x), len(weight)) for weight in weights]
    address, threads = x.data_ptr(), torch.get_num_threads()
    for job, y in zip(jobs, outputs, strict=True):
        job.x, job.x1, job.num_threads = address, y.data_ptr(), threads
    if library().prosparse_project(jobs, len(jobs)):
        raise MemoryError("The CPU kernels found no memory for x.")
    return outputs


def sparse_ffn(
    x: Tensor,
    weights: FFNWeights,
    residual: Tensor | None = None,
    float32_output: bool = False,
) -> Tensor:
    """The whole FFN; see `prosparse.kernels.ops.sparse_ffn`."""
    if not _has_whole_blocks(weights):
        return reference.sparse_ffn(x, weights, residual, float32_output)
    return _run_ffn(_ffn_job(x, weights), x, residual, float32_output)


def sparse_ffn_of(x: Tensor, parts: tuple, residual: Tensor | None, float32_output: bool) -> Tensor:
    """The same of the fields of an `FFNWeights`, which are checked when they are first seen."""
    job = prepared(x, parts, lambda: ffn_jobs(x, checked_ffn(x, parts)))
    if job is None:
        return reference.sparse_ffn(x, FFNWeights(*parts), residual, float32_output)
    return _run_ffn(job[0], x, residual, float32_output)


def predicted_ffn(x: Tensor, weights: FFNWeights, fc1: Tensor, fc2T: Tensor, cut: float) -> Tensor:
    """The FFN behind a predictor in one call; see `prosparse.kernels.predicted`."""
    predictor = _job(x, len(fc1), 0.0)
    predictor.gate, predictor.down = matrix(fc1, None), matrix(fc2T, None)
    y = torch.empty_like(x)
    ffn = _job_of(x, weights)
    ffn.y, ffn.down = y.data_ptr(), matrix(weights.down_projT, None)
    _check(
        library().prosparse_run_predicted(
            ctypes.byref(predictor), ctypes.byref(ffn), _rounded(cut, x.dtype)
        )
    )
    return y


def ffn_jobs(x: Tensor, weights: FFNWeights) -> list[Job] | None:
    """Return what describes an FFN to C++, addresses of outputs left out; None where it cannot be."""
    return [_ffn_job(x, weights)] if _has_whole_blocks(weights) else None


def _ffn_job(x: Tensor, weights: FFNWeights) -> Job:
    job = _job_of(x, weights)
    job.down = matrix(weights.down_projT, weights.down_scales)
    job.down_bias = _address(weights.down_bias)
    return job


def _run_ffn(job: Job, x: Tensor, residual: Tensor | None, float32_output: bool) -> Tensor:
    y = torch.empty(x.shape, dtype=torch.float32 if float32_output else x.dtype)
    job.x, job.y, job.y_is_float32 = x.data_ptr(), y.data_ptr(), float32_output
    job.num_threads = torch.get_num_threads()
    if residual is not None:
        job.residual, job.residual_is_float32 = residual.data_ptr(), residual.dtype == torch.float32
    _run(job)
    return y


def projection_jobs(
    x: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
) -> list[Job] | None:
    """Return what describes projections of one input to C++, as `ffn_jobs` does an FFN."""
    parts = zip(weights, scales, biases, strict=True)
    projections = [checked_projection(x, *each) for each in parts]
    if not all(map(_has_whole_blocks, projections)):
        return None
    return [_job_of(x, projection) for projection in projections]


def _job_of(x: Tensor, weights: FFNWeights) -> Job:
    job = _job(x, len(weights.gate_proj), weights.threshold)
    job.gate = matrix(weights.gate_proj, weights.gate_scales)
    if weights.up_proj is not None:
        job.up = matrix(weights.up_proj, weights.up_scales)
    job.gate_bias, job.up_bias = _address(weights.gate_bias), _address(weights.up_bias)
    job.shift, job.up_relu = weights.shift, weights.up_relu
    return job


def _job(x: Tensor, d_ff: int, threshold: float) -> Job:
    return Job(
        tokens=len(x),
        d_model=x.shape[1],
        d_ff=d_ff,
        kind=KINDS[x.dtype],
        num_threads=torch.get_num_threads(),
        x=x.data_ptr(),
        threshold=_rounded(threshold, x.dtype),
    )


@functools.cache
def _rounded(threshold: float, dtype: torch.dtype) -> float:
    """Return the threshold as the dtype has it; cached, as a tensor of one number takes microseconds."""
    return torch.tensor(threshold, dtype=dtype).item()


def matrix(values: Tensor, scales: Tensor | None) -> Matrix:
    """Return what describes a matrix to C++."""
    if scales is None:
        return Matrix(values.data_ptr(), None, 0, KINDS[values.dtype])
    return Matrix(values.data_ptr(), scales.data_ptr(), _group(values, scales), KINDS[values.dtype])


def _group(values: Tensor, scales: Tensor) -> int:
    width = values.shape[1] * (2 if values.dtype == torch.uint8 else 1)
    return width // scales.shape[1]


def _has_whole_blocks(weights: FFNWeights) -> bool:
    """Whether all groups are those that `quantize` makes; others are for the reference."""
    pairs = (
        (weights.gate_proj, weights.gate_scales),
        (weights.up_proj, weights.up_scales),
        (weights.down_projT, weights.down_scales),
    )
    return all(
        values is None or scales is None or _group(values, scales) % BLOCK == 0
        for values, scales in pairs
    )


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _run(job: Job) -> None:
    _check(library().prosparse_run(ctypes.byref(job)))


def _check(has_failed: int) -> None:
    if has_failed:
        raise MemoryError("The CPU kernels found no memory for their lists.")
