# SPDX-License-Identifier: Apache-2.0
"""`prosparse measure`: sparsity and perplexity, their distributions, and metrics of sparsity."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prosparse.data.sources import Source, as_sources
from prosparse.data.windows import windows as cut_windows
from prosparse.errors import UserError
from prosparse.measurement.activity import activity_meters, pooled
from prosparse.measurement.metrics import check_metric, measure_under
from prosparse.measurement.neurons import write_counts
from prosparse.measurement.passes import Passes
from prosparse.measurement.perplexity import Windows, forward_dtype
from prosparse.model.checkpoint import load, load_tokenizer
from prosparse.model.device import choose_device, forward_precision, provenance
from prosparse.model.relufy import activation_of
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.sparsity import MeasureRecord, pool_layer_sparsity

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_windows(
    data: Mapping[str, Source],
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    num_tokens: int,
) -> list[Windows]:
    """Return the first `num_tokens` tokens of each data set, in windows of `context_length`.

    Raises:
        UserError: No data set, a source that cannot be read or is too short, or too few tokens.
    """
    if not data:
        raise UserError("No data to measure on; give at least one --data NAME=PATH.")
    if context_length < 2:  # the first token of a window is not predicted
        raise UserError(f"--context-length must be at least 2; found {context_length}.")
    return [
        Windows(name, source.path, cut_windows(source, name, tokenizer, context_length, num_tokens))
        for name, source in data.items()
    ]


def measure(
    model: str | Path | PreTrainedModel,
    data: Mapping[str, str | Path | Source],
    *,
    tokens: int = 32768,
    context_length: int = 1024,
    detail: bool = False,
    metric: str | None = None,
    epsilon: float | None = None,
    k: float | None = None,
    cett: float | None = None,
    max_perplexity_increase: float = 0.01,
    precision: str = "auto",
    device: str = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> MeasureRecord:
    """Return the activation sparsity and the perplexity of a model on named data.

    Args:
        model: Folder, GGUF file, hub id, or a model that is already loaded.
        data: Data sets by name: a path or hub id, or a `Source` for more than that.
        tokens: How many tokens of each data set to run, from its start; at least one window.
        context_length: Tokens in one window. Perplexities at different lengths do not compare.
        detail: Count the distributions too: by neuron, place, token, group of tokens, magnitude.
        metric: Which neurons are weak and switched off: `fat`, `topk`, `cett` with a setting;
            `cett-ppl` finds the setting; `compare` measures several of all three beside the model
            as it is. None leaves the model as it is.
        epsilon: Of `fat`: neurons with |act(gate)| below it are weak; > 0.
        k: Of `topk`: share of a layer's neurons that each token keeps, in (0, 1].
        cett: Of `cett`: relative output error of each layer, in (0, 1].
        max_perplexity_increase: Of `cett-ppl`: the budget, 0.01 is one percent.
        precision: `auto`, `float32` or `bfloat16` for the matrix products.
        device: `auto`, `cpu`, `cuda`, ...
        tokenizer: Needed only with a loaded model that does not know where it came from.
        out: Folder for `record.json`, and `neurons.npz` with `detail`; None writes nothing.
        overwrite: Replace `out` if it exists.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        progress: Show progress bars.

    Raises:
        UserError: The model or a data source cannot be used, an option is out of range, or `out`
            exists.

    Example:
        >>> import prosparse as ps
        >>> record = ps.measure("smollm2-relu", {"prose": "prose.jsonl"}, tokens=16384)
        >>> record.sparsity, record.data[0].perplexity
    """
    started = time.monotonic()
    if out is not None:
        refuse_existing(Path(out), overwrite)
    setting = check_metric(metric, epsilon, k, cett, max_perplexity_increase)
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
        # float32 is meant: a bfloat16 checkpoint would run in bfloat16, emulated if need be.
        dtype = torch.float32 if used == "float32" else None
        network = load(model, dtype=dtype, device=where, trust_remote_code=trust_remote_code)
    meters = activity_meters(network, held_out) if detail else []
    passes = Passes(network, held_out, used, progress)
    outcome = measure_under(passes, metric, setting, max_perplexity_increase, meters)
    activities = [meter.summary() for meter in meters] or [None] * len(held_out)
    measures = tuple(m.summary(a) for m, a in zip(outcome.measured, activities, strict=True))
    layers = pool_layer_sparsity(measures)
    record = MeasureRecord(
        model=name,
        activation=activation_of(network),
        dtype=forward_dtype(network, used),
        context_length=context_length,
        sparsity=sum(layers) / len(layers),
        layer_sparsity=layers,
        data=measures,
        seconds=time.monotonic() - started,
        provenance=provenance(where),
        activity=pooled(meters),
        metric=outcome.metric,
        points=outcome.points,
    )
    if out is not None:
        with whole_folder(Path(out), overwrite) as folder:
            write_record(record, folder)
            if meters:
                counts = {w.name: m.neurons for w, m in zip(held_out, meters, strict=True)}
                write_counts(counts, folder)
    return record
