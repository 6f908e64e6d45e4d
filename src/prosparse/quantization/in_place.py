# SPDX-License-Identifier: Apache-2.0
"""Quantize a model that is in memory, as far as a text shows it to bear."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from prosparse.errors import UserError
from prosparse.model.quantized import GROUP_SIZE
from prosparse.model.quantizing import hold_all, places
from prosparse.quantization.plan import WIDTHS, Plan, plan_bits
from prosparse.quantization.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from prosparse.measurement.perplexity import Windows
    from prosparse.model.quantizing import Place

DEFAULT_BUDGETS = {8: 0.01, 4: 0.05}


def quantize_in_place(
    model: PreTrainedModel,
    ids: Tensor,
    *,
    bits: int = 4,
    max_perplexity_increase: float | None = None,
    progress: bool = True,
) -> dict[str, int | None]:
    """Quantize a loaded model in place, but for what a text shows not to bear it.

    It can be saved afterwards, and is then what `quantize` writes.

    Args:
        model: A causal language model, loaded whole, not accelerated yet.
        ids: [B, S] token ids of ordinary text, S >= 2; some hundred tokens will do.
        bits: 8 or 4; with 4, layers that do not bear it get 8, and with both, stay as they are.
        max_perplexity_increase: The budget, relative: 0.01 is one percent; None is 0.01 at 8 bits and 0.05 at 4.
        progress: Show a progress bar.

    Returns:
        The bits of each layer, by its dotted name; None where it stays as it was.

    Raises:
        UserError: It is quantized already, or d_model is no multiple of 64.

    Example:
        >>> import prosparse as ps
        >>> network = ps.load("runs/demo/model", device="cuda")
        >>> ids = ps.load_tokenizer("runs/demo/model")(text, return_tensors="pt").input_ids
        >>> bits = ps.quantize_in_place(network, ids.to("cuda"))
        >>> accelerated = ps.accelerate(network)
    """
    budget = budget_for(bits, max_perplexity_increase)
    if ids.dim() != 2 or ids.shape[0] < 1 or ids.shape[1] < 2:
        raise UserError(
            "What bears few bits is measured on text: give token ids [B, S] with at least two tokens "
            f"in a row; found {list(ids.shape)}."
        )
    plan = decide(model, ids, bits, math.log1p(budget), progress)
    hold_all(model, held_only(plan), places(model), GROUP_SIZE)
    return plan.bits


def decide(
    model: PreTrainedModel,
    ids_WS: Tensor,
    bits: int,
    max_cost: float,
    progress: bool,
    among: Sequence[Place] | None = None,
    group_size: int = GROUP_SIZE,
    longer: Sequence[Windows] = (),
    precision: str = "float32",
    safety: float = 1.0,
) -> Plan:
    """Return in how many bits each layer can be held; the model is what it was afterwards.

    Args:
        model: Not quantized.
        ids_WS: Text to decide on, int64 [windows, length].
        bits: 8 or 4: the least.
        max_cost: Of all of them together, in nats per token; see `plan_bits`.
        progress: Show a progress bar.
        among: Layers to decide on; None is all of them.
        group_size: Values that share a scale.
        longer: Text to measure on what they cost together, if that is not to be their divergence.
        precision: Of the passes over it.
        safety: See `plan_bits`.

    Raises:
        UserError: It is quantized already, or d_model is no multiple of `group_size`.
    """
    found = places(model, group_size) if among is None else among
    bar = tqdm(unit=" passes", desc="deciding", disable=not progress, leave=False)
    with bar, _in_float32(model):
        trial = Trial(
            model,
            ids_WS,
            group_size=group_size,
            longer=longer,
            precision=precision,
            on_pass=bar.update,
        )
        return plan_bits(trial, found, bits, max_cost, safety)


def held_only(plan: Plan) -> dict[str, int]:
    """Return the bits of the layers that do not stay as they were."""
    return {name: width for name, width in plan.bits.items() if width is not None}


def cast_parameters(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast the weights, and not the buffers: rotary frequencies in bfloat16 would be others."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def budget_for(bits: int, wanted: float | None) -> float:
    """Return the budget that was asked for, or that of the bits: 1 % at 8, 5 % at 4.

    Raises:
        UserError: It is negative, or `bits` is neither 8 nor 4.
    """
    if bits not in WIDTHS:
        raise UserError(f"--bits must be 8 or 4; found {bits}.")
    budget = DEFAULT_BUDGETS[bits] if wanted is None else wanted
    if not budget >= 0:
        raise UserError(f"--max-perplexity-increase must be >= 0; found {budget:g}.")
    return budget


@contextlib.contextmanager
def _in_float32(model: PreTrainedModel) -> Iterator[None]:
    dtypes = [parameter.dtype for parameter in model.parameters()]
    cast_parameters(model, torch.float32)
    try:
        yield
    finally:
        for parameter, dtype in zip(model.parameters(), dtypes, strict=True):
            parameter.data = parameter.data.to(dtype)
