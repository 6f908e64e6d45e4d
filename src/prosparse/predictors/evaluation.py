# SPDX-License-Identifier: Apache-2.0
"""`prosparse predictor eval`: recall, predicted sparsity, missed output, and what it does to perplexity."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prosparse.data.sources import Source, as_sources
from prosparse.measurement.passes import Passes
from prosparse.measurement.perplexity import forward_dtype, paired_increase
from prosparse.measurement.run import read_windows
from prosparse.model.checkpoint import load, load_tokenizer
from prosparse.model.device import choose_device, forward_precision, provenance
from prosparse.model.ffn import ffns
from prosparse.predictors.files import check_fit, read_predictors
from prosparse.predictors.predictor import Predictors
from prosparse.predictors.skipping import Judge, skipping
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.predictor import PredictorEvalRecord

if TYPE_CHECKING:
    from collections.abc import Mapping


def evaluate_predictors(
    model: str | Path | PreTrainedModel,
    predictors: str | Path,
    data: Mapping[str, str | Path | Source],
    *,
    cut: float | None = None,
    tokens: int = 32768,
    context_length: int = 1024,
    precision: str = "auto",
    device: str = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> PredictorEvalRecord:
    """Return how well predictors do on text, and the perplexity of the model that goes by them.

    Args:
        model: Folder, GGUF file, hub id, or a model that is already loaded.
        predictors: Folder of `prosparse predictor fit`, or of `model_N.pt` files.
        data: Held-out text by name: a path or hub id, or a `Source`.
        cut: In place of the predictors' own, in all layers: what a lower or higher one would do.
        tokens: Tokens of each data set.
        context_length: Tokens in one window.
        precision: `auto`, `float32` or `bfloat16` for the model's products; predictors run in float32.
        device: `auto`, `cpu`, `cuda`, ...
        tokenizer: Needed only with a loaded model that does not know where it came from.
        out: Folder for `record.json`; None writes nothing.
        overwrite: Replace `out` if it exists.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        progress: Show progress bars.

    Raises:
        UserError: The model, the predictors or the data cannot be used or do not go together, or `out`
            exists.

    Example:
        >>> import prosparse as ps
        >>> found = ps.evaluate_predictors("runs/sparse", "runs/predictors", {"prose": "valid.jsonl"})
        >>> found.mean("recall"), found.perplexity_increase
    """
    started = time.monotonic()
    if out is not None:
        refuse_existing(Path(out), overwrite)
    chosen = read_predictors(predictors)
    if cut is not None:
        chosen = Predictors([replace(layer, cut=cut) for layer in chosen.layers], chosen.reads)
    where = model.device if isinstance(model, PreTrainedModel) else choose_device(device)
    used = forward_precision(precision, where)
    sources = as_sources(data)
    name = str(model) if isinstance(model, str | Path) else model.config.name_or_path or ""
    if tokenizer is None:
        tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    held_out = read_windows(sources, tokenizer, context_length, tokens)
    if isinstance(model, PreTrainedModel):
        network = model
    else:
        dtype = torch.float32 if used == "float32" else None
        network = load(model, dtype=dtype, device=where, trust_remote_code=trust_remote_code)
    found = ffns(network)
    check_fit(chosen, found)
    chosen = chosen.to(where)
    passes = Passes(network, held_out, used, progress)
    judge = Judge(network, found, chosen)
    with judge.watch():
        dense = passes.run("as it is: ")
    with skipping(network, found, chosen):
        predicted = passes.run("predicted: ")
    increase, stderr = paired_increase([m.loss_W for m in predicted], [m.loss_W for m in dense])
    record = PredictorEvalRecord(
        model=name,
        predictors=str(predictors),
        reads=chosen.reads,
        context_length=context_length,
        dtype=forward_dtype(network, used),
        layers=judge.qualities(),
        dense=tuple(measure.summary() for measure in dense),
        predicted=tuple(measure.summary() for measure in predicted),
        perplexity_increase=increase,
        perplexity_increase_stderr=stderr,
        seconds=time.monotonic() - started,
        provenance=provenance(where),
    )
    if out is not None:
        with whole_folder(Path(out), overwrite) as folder:
            write_record(record, folder)
    return record
