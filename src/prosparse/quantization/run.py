# SPDX-License-Identifier: Apache-2.0
"""`prosparse quantize`: a checkpoint in 8 or 4 bits, but for what a text shows not to bear it."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prosparse.data.sources import Source, as_sources
from prosparse.errors import UserError
from prosparse.measurement.perplexity import (
    Windows,
    measure_windows,
    paired_increase,
)
from prosparse.measurement.run import read_windows
from prosparse.model.checkpoint import load, load_tokenizer, save
from prosparse.model.device import choose_device, forward_precision, provenance
from prosparse.model.quantized import GROUP_SIZE
from prosparse.model.quantizing import hold_all, places
from prosparse.quantization.in_place import budget_for, cast_parameters, decide, held_only
from prosparse.quantization.plan import Plan, num_weights
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.quantization import QuantizedLayer, QuantizeRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from prosparse.measurement.perplexity import WindowMeasure

PIECE = 128
"""Tokens of a window to measure layers alone on: short ones cost less, and each has its massive first tokens."""
SAFETY = 0.2
"""Of the budget: the divergence that 8 bits may show on the deciding text. On SmolLM2-135M the loss on other
text in long windows rose by about three times the divergence on short deciding windows."""
CUT_WINDOWS = 8
"""Whole windows, of all data sets together and at least two of each, to measure on what layers in 4 bits cost
together. Their standard error is of the size of a budget for 8 bits."""
HALVES = (torch.bfloat16, torch.float16)


def quantize(
    model: str | Path,
    data: Mapping[str, str | Path | Source],
    *,
    out: str | Path,
    bits: int = 8,
    max_perplexity_increase: float | None = None,
    tokens: int = 8192,
    deciding_tokens: int = 1024,
    context_length: int = 1024,
    precision: str = "auto",
    device: str = "auto",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    base: str | None = None,
    progress: bool = True,
) -> QuantizeRecord:
    """Write a copy of a checkpoint with its linear layers and embedding in 8 or 4 bits.

    In which order they are taken is decided by how far predictions move on the beginning of each data set, how
    many get 4 bits by the perplexity of the windows after it, and what that costs is measured on the tokens after
    those. What is not quantized is kept in bfloat16, or in float16 where
    the checkpoint is.

    Args:
        model: Folder, GGUF file or hub id; not quantized, but for a GGUF, which is unpacked.
        data: Held-out data sets by name: a path or hub id, or a `Source`.
        out: Folder to write; it gets the checkpoint and `record.json`.
        bits: 8 or 4; with 4, layers that do not bear it get 8, and with both, stay as they are.
        max_perplexity_increase: The budget, relative to the model as it was: 0.01 is one percent; None
            is 0.01 at 8 bits and 0.05 at 4.
        tokens: How many tokens of each data set to judge on.
        deciding_tokens: How many tokens to measure each layer alone on, of all data sets together.
        context_length: Tokens in one window of those to judge on.
        precision: `auto`, `float32` or `bfloat16` for the matrix products.
        device: `auto`, `cpu`, `cuda`, ...
        overwrite: Replace `out` if it exists.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        base: What record and model card call the model; its path or id when left out.
        progress: Show progress bars.

    Returns:
        The record that was written. Whether the other text stays within the budget too is its
        `is_within_budget`; the checkpoint is written in any case.

    Raises:
        UserError: The model is quantized already or its d_model is no multiple of 64, an option is out
            of range, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> record = ps.quantize("runs/sparse", {"prose": "valid.jsonl"}, bits=4, out="runs/int4")
        >>> record.perplexity_increase, record.bytes_after / record.bytes_before
    """
    started = time.monotonic()
    out = Path(out)
    refuse_existing(out, overwrite)
    budget = budget_for(bits, max_perplexity_increase)
    where = choose_device(device)
    used = forward_precision(precision, where)
    sources = as_sources(data)
    tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
    set_aside = _num_set_aside(deciding_tokens, len(sources), context_length)
    num_cut = max(2, math.ceil(CUT_WINDOWS / max(len(sources), 1))) if bits == 4 else 0
    wanted = tokens + (set_aside + num_cut) * context_length
    read = read_windows(sources, tokenizer, context_length, wanted)
    ids_WS, longer, held_out = _parted(read, set_aside, num_cut, deciding_tokens)
    network = load(model, device=where, trust_remote_code=trust_remote_code)
    found = places(network)
    kept = network.dtype if network.dtype in HALVES else torch.bfloat16
    cast_parameters(network, torch.float32)
    before = _measured(network, held_out, used, progress and "as it was")
    cast_parameters(network, kept)
    cast_parameters(network, torch.float32)
    sizes = {place.name: num_weights(place) for place in found}
    num_bytes = _num_bytes(network, kept)
    plan = decide(
        network,
        ids_WS,
        bits,
        math.log1p(budget),
        progress,
        longer=longer,
        precision=used,
        safety=SAFETY,
    )
    hold_all(network, held_only(plan), found, GROUP_SIZE)
    after = _measured(network, held_out, used, progress and "quantized")
    increase, stderr = paired_increase([m.loss_W for m in after], [m.loss_W for m in before])
    cast_parameters(network, kept)
    record = QuantizeRecord(
        model=base or str(model),
        bits=bits,
        group_size=GROUP_SIZE,
        max_perplexity_increase=budget,
        perplexity_increase=increase,
        perplexity_increase_stderr=stderr,
        before=tuple(measure.summary() for measure in before),
        after=tuple(measure.summary() for measure in after),
        layers=_layers(plan, sizes),
        kept_dtype=str(kept).removeprefix("torch."),
        bytes_before=num_bytes,
        bytes_after=_num_bytes(network, kept),
        deciding_tokens=ids_WS.numel(),
        deciding_divergence=plan.divergence,
        cutting_tokens=sum(windows.ids_WS.numel() for windows in longer) or None,
        cutting_increase=math.expm1(plan.cost) if longer else None,
        context_length=context_length,
        dtype=used if used == "bfloat16" else "float32",
        seconds=time.monotonic() - started,
        provenance=provenance(where),
    )
    with whole_folder(out, overwrite) as folder:
        save(network, tokenizer, folder, base=record.model, notes=card_notes(record))
        write_record(record, folder)
    return record


def card_notes(record: QuantizeRecord) -> list[str]:
    """Return what the model card says about the bits and their cost."""
    counts = ", ".join(
        f"{len(layers)} {'stay' if width is None else f'are held in {width} bits'}"
        for width in (4, 8, None)
        if (layers := record.held_in(width))
    )
    data = ", ".join(f"{m.num_tokens:,} tokens of {m.data}" for m in record.before)
    return [
        f"Of its {len(record.layers)} linear layers and embeddings, {counts} (symmetric, groups of "
        f"{record.group_size}, float16 scales); the rest is {record.kept_dtype}. That changed perplexity "
        f"by {record.perplexity_increase:+.2%} ± {record.perplexity_increase_stderr:.2%}, on {data}, and "
        f"the size of the weights from {record.bytes_before / 1e6:,.1f} to "
        f"{record.bytes_after / 1e6:,.1f} MB."
    ]


def _num_set_aside(deciding_tokens: int, num_sets: int, context_length: int) -> int:
    """Return how many windows of each data set take part in deciding."""
    if deciding_tokens < 2:
        raise UserError(f"--deciding-tokens must be at least 2; found {deciding_tokens}.")
    each = math.ceil(deciding_tokens / max(num_sets, 1))
    return math.ceil(each / max(context_length, 1))


def _parted(
    read: Sequence[Windows], set_aside: int, num_cut: int, deciding_tokens: int
) -> tuple[Tensor, list[Windows], list[Windows]]:
    """Return the text to measure layers alone on, that to measure them on together, and the rest.

    The first is int64 [windows, PIECE or less].
    """
    pieces = []
    for windows in read:
        num_windows, length = windows.ids_WS.shape
        if num_windows <= set_aside + num_cut:
            raise UserError(
                f"Data set '{windows.name}': {windows.source} has {num_windows} windows of {length} "
                f"tokens; {set_aside + num_cut} decide, so give more text, a shorter --context-length, or "
                "fewer --deciding-tokens."
            )
        piece = min(PIECE, length)
        usable = windows.ids_WS[:set_aside, : length // piece * piece].reshape(-1, piece)
        pieces.append(usable[: max(1, deciding_tokens // len(read) // piece)])
    end = set_aside + num_cut
    longer = [Windows(w.name, w.source, w.ids_WS[set_aside:end]) for w in read if num_cut]
    held_out = [Windows(w.name, w.source, w.ids_WS[end:]) for w in read]
    return torch.cat(pieces), longer, held_out


def _measured(
    network: PreTrainedModel, held_out: Sequence[Windows], precision: str, label: str | bool
) -> list[WindowMeasure]:
    return [
        measure_windows(
            network,
            windows,
            precision=precision,
            progress=f"{windows.name}, {label}" if label else None,
        )
        for windows in held_out
    ]


def _layers(plan: Plan, sizes: Mapping[str, int]) -> tuple[QuantizedLayer, ...]:
    return tuple(
        QuantizedLayer(name, width, sizes[name], plan.alone[name].get(8), plan.alone[name].get(4))
        for name, width in plan.bits.items()
    )


def _num_bytes(network: PreTrainedModel, kept: torch.dtype) -> int:
    """Return the bytes of what a checkpoint holds, parameters in `kept`, a tied one once."""
    parameters = sum(parameter.numel() for parameter in network.parameters()) * kept.itemsize
    held = network.state_dict()
    names = {name for name, _ in network.named_buffers()}
    return parameters + sum(t.numel() * t.itemsize for n, t in held.items() if n in names)
