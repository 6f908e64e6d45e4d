# SPDX-License-Identifier: Apache-2.0
"""`prosparse threshold`: step 3 of ProSparse on a checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prosparse.data.sources import Source
from prosparse.errors import UserError
from prosparse.measurement.perplexity import forward_dtype
from prosparse.measurement.run import read_windows
from prosparse.model.checkpoint import load, load_tokenizer, save
from prosparse.model.device import choose_device, forward_precision, provenance
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.threshold import ThresholdRecord
from prosparse.thresholds.search import (
    OnCandidate,
    apply_threshold,
    check_candidates,
    choose,
    refuse_dense,
    sweep,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_CANDIDATES = (0.005, 0.01, 0.02, 0.03)


def threshold(
    model: str | Path,
    data: Mapping[str, str | Path | Source],
    *,
    out: str | Path,
    candidates: Sequence[float] = DEFAULT_CANDIDATES,
    max_perplexity_increase: float = 0.01,
    tokens: int = 32768,
    context_length: int = 1024,
    precision: str = "auto",
    device: str = "auto",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    base: str | None = None,
    on_candidate: OnCandidate | None = None,
    progress: bool = True,
) -> ThresholdRecord:
    """Write a copy of a ReLU checkpoint with the largest FATReLU threshold a budget allows.

    Args:
        model: Folder, GGUF file or hub id of a ReLU model; a FATReLU model's threshold is
            replaced, for the baseline is always plain ReLU.
        data: Held-out data sets by name: a path or hub id, or a `Source`.
        out: Folder to write; it gets the checkpoint and `record.json`.
        candidates: Thresholds to try, > 0; the defaults are those of Appendix O.
        max_perplexity_increase: The budget, relative to the unshifted model: 0.01 is one percent.
        tokens: How many tokens of each data set to run.
        context_length: Tokens in one window.
        precision: `auto`, `float32` or `bfloat16` for the matrix products.
        device: `auto`, `cpu`, `cuda`, ...
        overwrite: Replace `out` if it exists.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        base: What record and model card call the model; its path or id when left out.
        on_candidate: Called with each candidate as it is measured, the unshifted model first.
        progress: Show progress bars.

    Returns:
        The record that was written. `chosen` is 0 when no candidate stays within the budget; the
        checkpoint then keeps plain ReLU.

    Raises:
        UserError: The model is not a ReLU model, an option is out of range, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> record = ps.threshold("runs/sparse", {"prose": "valid.jsonl"}, out="runs/shifted")
        >>> record.chosen, record.chosen_candidate.sparsity
    """
    started = time.monotonic()
    out = Path(out)
    refuse_existing(out, overwrite)
    checked = check_candidates(candidates)
    if not max_perplexity_increase >= 0:
        raise UserError(f"--max-perplexity-increase must be >= 0; found {max_perplexity_increase}.")
    where = choose_device(device)
    used = forward_precision(precision, where)
    sources = {k: v if isinstance(v, Source) else Source(path=str(v)) for k, v in data.items()}
    tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
    held_out = read_windows(sources, tokenizer, context_length, tokens)
    network = load(model, device=where, trust_remote_code=trust_remote_code)
    refuse_dense(network)
    stored = network.dtype
    if used == "float32":  # is meant, as in measure
        network.to(torch.float32)  # type: ignore[arg-type]
    rows = sweep(
        network,
        held_out,
        checked,
        max_perplexity_increase,
        precision=used,
        on_candidate=on_candidate,
        progress=progress,
    )
    record = ThresholdRecord(
        model=base or str(model),
        max_perplexity_increase=max_perplexity_increase,
        candidates=rows,
        chosen=choose(rows),
        context_length=context_length,
        dtype=forward_dtype(network, used),
        seconds=time.monotonic() - started,
        provenance=provenance(where),
    )
    apply_threshold(network, record.chosen)
    network.to(stored)  # type: ignore[arg-type]
    with whole_folder(out, overwrite) as folder:
        save(network, tokenizer, folder, base=record.model, notes=card_notes(record))
        write_record(record, folder)
    return record


def card_notes(record: ThresholdRecord) -> list[str]:
    """Return what the model card says about the threshold."""
    if record.chosen == 0:
        return [
            "No threshold tried stayed within its quality budget; the activation is plain ReLU."
        ]
    chosen = record.chosen_candidate
    data = ", ".join(f"{m.num_tokens:,} tokens of {m.data}" for m in chosen.data)
    return [
        f"Shifting the threshold to {record.chosen:g} raised activation sparsity from "
        f"{record.candidates[0].sparsity:.4f} to {chosen.sparsity:.4f} (mean over layers) and "
        f"perplexity by {chosen.perplexity_increase:.2%} "
        f"± {chosen.perplexity_increase_stderr:.2%}, on {data}."
    ]
