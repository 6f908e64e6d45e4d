# SPDX-License-Identifier: Apache-2.0
"""`prosparse threshold`: step 3 of ProSparse on a checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prosparse.data.sources import Source, as_sources
from prosparse.measurement.passes import Passes
from prosparse.measurement.perplexity import forward_dtype
from prosparse.model.checkpoint import load, load_tokenizer, save
from prosparse.model.device import choose_device, forward_precision, provenance
from prosparse.model.ffn import ffns
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.threshold import ThresholdRecord
from prosparse.thresholds.held_out import choosing_and_checking, learning_and_judging
from prosparse.thresholds.judge import Judge, OnCandidate, apply_thresholds
from prosparse.thresholds.methods import try_methods
from prosparse.thresholds.notes import card_notes, notes_on
from prosparse.thresholds.search import (
    check_candidates,
    check_method,
    choose,
    chosen_of_methods,
    refuse_dense,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prosparse.records.threshold import ThresholdCandidate

DEFAULT_CANDIDATES = (0.005, 0.01, 0.02, 0.03)


def threshold(
    model: str | Path,
    data: Mapping[str, str | Path | Source],
    *,
    out: str | Path,
    method: str = "fixed",
    candidates: Sequence[float] = DEFAULT_CANDIDATES,
    max_perplexity_increase: float = 0.01,
    check_data: Mapping[str, str | Path | Source] | None = None,
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
    """Write a copy of a ReLU checkpoint with the largest FATReLU thresholds a budget allows.

    Args:
        model: Folder, GGUF file or hub id of a ReLU model; a FATReLU model's threshold is
            replaced, for the baseline is always plain ReLU.
        data: Data sets to choose by, by name: a path or hub id, or a `Source`.
        out: Folder to write; it gets the checkpoint and `record.json`.
        method: `fixed`: the largest of `candidates`, the same for all layers. `per-layer`: one for
            each layer, the most zeros for what layers cost. `cett`: one for each layer, all with the
            same relative output error. `all`: each of them at the edge of the budget, the sparsest
            is kept.
        candidates: Of `fixed`: thresholds to try, > 0; the defaults are those of Appendix O.
        max_perplexity_increase: The budget, relative to the unshifted model: 0.01 is one percent.
        check_data: Data sets to check the choice on; None: what follows in `data`.
        tokens: How many tokens of each data set to run, for the choice and again for the check.
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
        checkpoint then keeps plain ReLU. `check` has what the choice costs on other text, and
        `notes` says in words what did not go as wished.

    Raises:
        UserError: The model is not a ReLU model or its loss is not finite, an option is out of
            range, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> record = ps.threshold("runs/sparse", {"prose": "valid.jsonl"}, out="runs/shifted")
        >>> record.chosen, record.chosen_candidate.sparsity
    """
    started = time.monotonic()
    out = Path(out)
    refuse_existing(out, overwrite)
    methods = check_method(method, max_perplexity_increase)
    checked = check_candidates(candidates)
    where = choose_device(device)
    used = forward_precision(precision, where)
    tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
    choosing, checking = choosing_and_checking(
        as_sources(data), as_sources(check_data or {}), tokenizer, context_length, tokens
    )
    network = load(model, device=where, trust_remote_code=trust_remote_code)
    refuse_dense(network)
    stored = network.dtype
    if used == "float32":  # is meant, as in measure
        network.to(torch.float32)  # type: ignore[arg-type]
    num_layers = len(ffns(network))
    learning, judging = choosing, choosing
    if methods != ("fixed",):
        learning, judging = learning_and_judging(choosing)
    judge = Judge(
        Passes(network, judging, used, progress), num_layers, max_perplexity_increase, on_candidate
    )
    found = try_methods(judge, methods, checked, Passes(network, learning, used, progress))
    rows = (judge.baseline, *found.rows)
    best = choose(rows)
    check = _check(Passes(network, checking, used, progress), judge, rows) if checking else ()
    record = ThresholdRecord(
        model=base or str(model),
        max_perplexity_increase=max_perplexity_increase,
        candidates=rows,
        chosen=best.threshold,
        context_length=context_length,
        dtype=forward_dtype(network, used),
        seconds=time.monotonic() - started,
        provenance=provenance(where),
        method=best.method if best.threshold else methods[0],
        check=check,
        layer_costs=found.layer_costs,
        notes=notes_on(rows, best, check, max_perplexity_increase, found.silent_layers),
    )
    apply_thresholds(network, best.layer_thresholds)
    network.to(stored)  # type: ignore[arg-type]
    with whole_folder(out, overwrite) as folder:
        save(network, tokenizer, folder, base=record.model, notes=card_notes(record))
        write_record(record, folder)
    return record


def _check(
    passes: Passes, judge: Judge, rows: Sequence[ThresholdCandidate]
) -> tuple[ThresholdCandidate, ...]:
    """Return the unshifted model and each method's choice, on text that chose nothing."""
    on_other_text = Judge(passes, judge.num_layers, judge.max_increase, is_check=True)
    chosen = [row for row in chosen_of_methods(rows) if row.threshold > 0]
    return (
        on_other_text.baseline,
        *(on_other_text.measure(c.method, c.threshold, c.layer_thresholds) for c in chosen),
    )
