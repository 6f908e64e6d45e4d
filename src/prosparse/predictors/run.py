# SPDX-License-Identifier: Apache-2.0
"""`prosparse predictor fit`: pairs, starts, ranks, training, cuts, one after another."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prosparse.data.sources import Source, as_sources
from prosparse.errors import UserError
from prosparse.model.checkpoint import load, load_tokenizer
from prosparse.model.device import choose_device, forward_precision, provenance
from prosparse.model.ffn import ffns
from prosparse.model.ffn_inputs import INPUT_KINDS
from prosparse.predictors.collect import collect
from prosparse.predictors.files import write_predictors
from prosparse.predictors.fit import Fit
from prosparse.predictors.fitting import FitOptions
from prosparse.predictors.options import ChoiceOptions, refuse_untimed
from prosparse.predictors.predictor import Predictors
from prosparse.predictors.workspace import FitWorkspace
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.lock import alone
from prosparse.records.predictor import PredictorFitRecord

if TYPE_CHECKING:
    from collections.abc import Mapping


def fit_predictors(
    model: str | Path,
    data: Mapping[str, str | Path | Source],
    *,
    out: str | Path,
    rows: int = 400_000,
    reads: str = "ffn-input",
    rank: int | None = None,
    cut: float | None = None,
    recall: float | None = None,
    max_missed: float = 0.03,
    zero_cuts: bool = False,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    batch_size: int = 1024,
    context_length: int = 1024,
    precision: str = "auto",
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> PredictorFitRecord:
    """Fit an activation predictor for every layer of a sparse model (Appendix F).

    Pairs of FFN input and activity are collected from text; each predictor starts from the SVD of the
    gate in the space of its inputs and is trained on 95 % of the pairs; the epoch with the highest recall
    on the rest is kept. Rank and cut are those that save the most measured time within `max_missed`,
    unless they are given.

    Args:
        model: Folder, GGUF file or hub id of a model with ReLU or a kind of it.
        data: Text by name: a path or hub id, or a `Source`.
        out: Folder to write: `predictors.safetensors` and `record.json`. While the fit runs, pairs and
            finished layers are in `<out>.unfinished/`.
        rows: Tokens to collect, of all data sets together.
        reads: `ffn-input` (after the norm) or `residual` (before it, what PowerInfer gives its own; the
            cut is then 0, and `rank` has to be given).
        rank: Width of the hidden layers, even; None chooses among four for each layer.
        cut: Logit below which a neuron is predicted inactive, in all layers.
        recall: In place of a cut: each layer's is the highest that keeps this recall, in (0, 1).
        max_missed: In place of both: mean share of the FFN outputs' norm that may be missed.
        zero_cuts: Fold the cuts into the second layers, nearly: PowerInfer has one threshold for all.
        epochs: At most; 0 keeps the starts.
        learning_rate: Of AdamW.
        batch_size: Rows of a training step.
        context_length: Tokens in one window of text.
        precision: `auto`, `float32` or `bfloat16` for the passes over text.
        device: `auto`, `cpu`, `cuda`, ...
        seed: Of the order of rows.
        resume: Go on with an unfinished fit: pairs and finished layers are kept.
        overwrite: Replace `out` if it exists.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        progress: Show progress bars.

    Returns:
        The record that was written.

    Raises:
        UserError: The model or the data cannot be used, there is no room for the pairs, an option is
            out of range, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> record = ps.fit_predictors("runs/sparse", {"prose": "prose.jsonl"}, out="runs/predictors")
        >>> record.mean("recall"), record.mean("predicted_sparsity"), record.sparsity
    """
    started = time.monotonic()
    out = Path(out)
    refuse_existing(out, overwrite)
    if reads not in INPUT_KINDS:
        raise UserError(f"--input must be {' or '.join(INPUT_KINDS)}; found '{reads}'.")
    if not data:
        raise UserError("No text to collect pairs from; give at least one --data NAME=PATH.")
    choice = ChoiceOptions(reads, rank, cut, recall, max_missed, zero_cuts)
    training = FitOptions(epochs, learning_rate, batch_size=batch_size, seed=seed)
    where = choose_device(device)
    used = forward_precision(precision, where)
    sources = as_sources(data)
    asked = {
        "model": str(model),
        "data": {name: source.path for name, source in sources.items()},
        **{"rows": rows, "reads": reads, "rank": rank, "epochs": epochs},
        **{"learning_rate": learning_rate, "batch_size": batch_size, "seed": seed},
        **{"context_length": context_length, "precision": used},
    }
    with alone(out, wait=False):
        tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
        dtype = torch.float32 if used == "float32" else None
        network = load(model, dtype=dtype, device=where, trust_remote_code=trust_remote_code)
        choice.check(ffns(network))
        if choice.is_timed:
            refuse_untimed(network)
        # Once the model is known to do: a folder that a mistake left would be in the way of what mends it.
        workspace = FitWorkspace(out, asked, resume=resume, overwrite=overwrite)
        clock = time.monotonic()
        with workspace.kept_unless_refused():
            pairs = collect(
                network,
                tokenizer,
                sources,
                workspace.pairs,
                name=str(model),
                rows=rows,
                reads=reads,
                context_length=context_length,
                precision=used,
                progress=progress,
            )
        collect_seconds = workspace.add_seconds("collecting", time.monotonic() - clock)
        fit = Fit(network, pairs, workspace, choice, training, progress)
        predictors, layers = fit.run()
        record = PredictorFitRecord(
            model=str(model),
            reads=reads,
            data=tuple(f"{name}={source.path}" for name, source in sources.items()),
            num_rows=rows,
            context_length=context_length,
            precision=used,
            d_model=pairs.layout.d_model,
            d_ff=pairs.layout.d_ff,
            layers=layers,
            choice=choice.in_words(),
            exact_us=fit.exact_us,
            collect_seconds=collect_seconds,
            start_seconds=fit.start_seconds,
            fit_seconds=fit.fit_seconds,
            seconds=time.monotonic() - started,
            provenance=provenance(where, seed),
        )
        with whole_folder(out, overwrite) as folder:
            write_predictors(Predictors(predictors, reads), folder)
            write_record(record, folder)
        workspace.remove()
    return record
