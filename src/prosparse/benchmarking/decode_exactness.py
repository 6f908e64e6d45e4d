# SPDX-License-Identifier: Apache-2.0
"""Whether a sparse decode computes what the dense model computes: its logits, and its zeros.

Both read the dense model's own text, one token at a time with a cache. The logits may differ by what
rounding does to them (`prosparse.benchmarking.decode_check`). The zeros are compared one FFN at a
time: for the very input that the dense FFN had, the sparse operators must find the same neurons
inactive.

Two sums of the same terms in another order may still fall on both sides of a threshold. Where the
zeros differ, the sum in float64 is the judge: no float32 sum of D terms, in whatever order, is
farther from it than D eps times the sum of their magnitudes (Higham, 2002, Section 3.1; half of that
if every sum is rounded to nearest). A sparse result that is on the wrong side by more is wrong.
M tokens that were fed one by one, D = d_model, F = d_ff, N new tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from prosparse.benchmarking.decode_check import DenseDecode, cached_logits
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.ops import screened_ffn, sparse_ffn
from prosparse.kernels.quantize import dequantize
from prosparse.model.ffn import ffns
from prosparse.model.tap import tap
from prosparse.records.decode_speed import ExactnessCheck
from prosparse.runtime.sparse_ffn import PATH, RunsTheFFN, SparsePath

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class FFNTrace:
    """What one dense FFN was given, and what it left inactive."""

    x: Tensor
    """[M, D], its inputs."""
    is_zero: Tensor
    """bool [M, F], where x_1 was zero."""


def trace_ffns(model: PreTrainedModel, prompt: Tensor, tokens: Sequence[int]) -> list[FFNTrace]:
    """Return what every FFN does while a text is decoded, first layer first.

    Args:
        model: The dense model.
        prompt: [1, P] token ids; its own pass is not traced.
        tokens: What follows it. The last is not fed, so M is one less than there are.
    """
    found = ffns(model)
    inputs: list[list[Tensor]] = [[] for _ in found]
    zeros: list[list[Tensor]] = [[] for _ in found]

    def keeper(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, args: inputs[layer].append(_last(args[0]))

    def keep_zeros(layer: int, x1: Tensor) -> None:
        zeros[layer].append(_last(x1) == 0)

    with contextlib.ExitStack() as hooks, tap(found, keep_zeros):
        for ffn in found:
            first = ffn.module.get_submodule(ffn.family.gate or ffn.family.up)
            hooks.enter_context(first.register_forward_pre_hook(keeper(ffn.layer)))
        cached_logits(model, prompt, len(tokens), tokens)
    return [
        FFNTrace(torch.stack(x[1:]), torch.stack(is_zero[1:]))  # the first is the prompt's
        for x, is_zero in zip(inputs, zeros, strict=True)
    ]


def check_exactness(
    kind: str,
    model: PreTrainedModel,
    prompt: Tensor,
    dense: DenseDecode,
    traces: Sequence[FFNTrace],
) -> ExactnessCheck:
    """Compare an accelerated model with what it was when it was dense.

    Args:
        kind: What to call it.
        model: The accelerated model.
        prompt: [1, P].
        dense: What it decoded.
        traces: What its FFNs did meanwhile.

    Raises:
        ValueError: Not every FFN has a sparse path.
    """
    logits_NV = cached_logits(model, prompt, len(dense.tokens), dense.tokens)
    num_differing, farthest = 0, torch.zeros((), dtype=torch.float64)
    for path, trace in zip(_sparse_paths(model), traces, strict=True):
        is_zero_MF = intermediate(path, trace.x) == 0
        differs_MF = is_zero_MF != trace.is_zero
        if differs_MF.any():
            num_differing += int(differs_MF.sum())
            beyond_MF = beyond_rounding(path.weights(), trace.x, is_zero_MF)
            farthest = torch.maximum(farthest, beyond_MF[differs_MF].max().cpu())  # keeps NaN
    return ExactnessCheck(
        kind=kind,
        num_tokens=len(dense.tokens),
        logit_difference=float((logits_NV - dense.logits).abs().max()),
        logit_bound=dense.bound,
        num_neurons=sum(trace.is_zero.numel() for trace in traces),
        num_differing=num_differing,
        farthest=float(farthest),
    )


def intermediate(path: SparsePath, x_MD: Tensor) -> Tensor:
    """Return x_1 [M, F] as the operators of the decode compute it, one token at a time.

    They hand out nothing but the FFN's output. With a piece of the identity in the place of `down`,
    that output is a piece of x_1.
    """
    weights, (_, d_model) = path.weights(), x_MD.shape
    d_ff = len(weights.down_projT)
    pieces = []
    for start in range(0, d_ff, d_model):
        identity = x_MD.new_zeros(d_ff, d_model)
        identity[start:].fill_diagonal_(1)
        picking = replace(weights, down_projT=identity, down_scales=None, down_bias=None)
        pieces.append(torch.cat([_run(path, x_1D, picking) for x_1D in x_MD.split(1)]))
    return torch.cat(pieces, dim=1)[:, :d_ff]


def beyond_rounding(weights: FFNWeights, x_MD: Tensor, is_zero_MF: Tensor) -> Tensor:
    """Return how far on the wrong side of zero each neuron is, by its sums in float64.

    Args:
        weights: The FFN.
        x_MD: Its inputs.
        is_zero_MF: bool, which neurons are said to be inactive.

    Returns:
        float64 [M, F]: 0 where float64 says the same, up to 1 where rounding explains the other.
    """
    info = torch.finfo(x_MD.dtype)
    smallest = info.tiny * info.eps
    cut = weights.threshold + weights.shift  # one of them is 0
    gate, rounding = _exact_sums(x_MD, weights.gate_proj, weights.gate_scales, weights.gate_bias)
    # The sum is rounded to the dtype before it is compared, with a threshold rounded as well.
    above = (gate - cut) / (rounding + info.eps * cut + smallest)
    active = above
    if weights.up_proj is not None:
        # x_1 is zero, too, where `up` is zero or its product with the gate underflows.
        up, rounding = _exact_sums(x_MD, weights.up_proj, weights.up_scales, weights.up_bias)
        active = torch.minimum(above, up.abs() / (rounding + smallest / gate.abs()))
    return torch.where(is_zero_MF, active, -above).clamp_min(0)


def _exact_sums(
    x_MD: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return x W^T + b, float64 [M, F], and how far from it the sum in float32 can be."""
    x, rows = x_MD.double(), dequantize(weight, scales).double()
    offset = x.new_zeros(()) if bias is None else bias.double()
    # Two more for the rounding of a product and of the bias.
    share = (x.shape[1] + 2) * torch.finfo(torch.float32).eps
    return x @ rows.T + offset, share * (x.abs() @ rows.abs().T + offset.abs())


def _run(path: SparsePath, x_1D: Tensor, weights: FFNWeights) -> Tensor:
    if path.screen is None:
        return sparse_ffn(x_1D, weights)
    return screened_ffn(x_1D, weights, path.screen)


def _sparse_paths(model: PreTrainedModel) -> list[SparsePath]:
    """Return the sparse paths of an accelerated model, first layer first."""
    holders = [module for module in model.modules() if isinstance(module, RunsTheFFN)]
    return [cast("SparsePath", getattr(holder, PATH)) for holder in holders]


def _last(rows: Tensor) -> Tensor:
    return rows.reshape(-1, rows.shape[-1])[-1]
