# SPDX-License-Identifier: Apache-2.0
"""`prosparse export`: a file that another engine runs, beside a record of what is in it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from prosparse.data.sources import Source, as_sources
from prosparse.errors import UserError
from prosparse.exporting.gpu_index import count_firing, write_counts, write_gpu_index
from prosparse.exporting.llama import check_llama
from prosparse.exporting.plain import architecture_for, write_plain
from prosparse.exporting.powerinfer import (
    check_expressible,
    exported_predictors,
    neuron_bytes,
    write_powerinfer,
)
from prosparse.exporting.tensors import tensor_type
from prosparse.measurement.passes import Passes
from prosparse.measurement.run import read_windows
from prosparse.model.activation import FATReLU
from prosparse.model.checkpoint import load, load_tokenizer
from prosparse.model.device import choose_device, forward_precision, provenance
from prosparse.model.ffn import ffns
from prosparse.model.relufy import activation_of, relufy_in_place
from prosparse.predictors.files import read_predictors
from prosparse.records.export import ExportRecord
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.sparsity import Activation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TARGETS = ("powerinfer", "gguf")
INDEX_SUFFIX = ".generated.gpuidx"
CONTEXT_LENGTH = 512


def export(
    model: str | Path,
    *,
    to: str,
    out: str | Path,
    predictors: str | Path | None = None,
    type: str = "f16",
    unshifted: bool = False,
    only_prosparse: bool = False,
    data: Mapping[str, str | Path | Source] | None = None,
    tokens: int = 32768,
    vram_gb: float | None = None,
    device: str = "auto",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> ExportRecord:
    """Write a model as a file that another engine runs.

    Args:
        model: Folder, GGUF file or hub id of a Llama.
        to: `powerinfer`, or `gguf` for llama.cpp.
        out: Folder to write: the file, `record.json`, and with `data` the counts in `activation/`.
        predictors: Of `powerinfer`: folder of `prosparse predictor fit --zero-cuts`, or of `model_N.pt`.
        type: Of the FFN's matrices: `f16`, `q4_0` or `f32`. The rest is float16 (or float32).
        unshifted: Of `powerinfer`: leave out a threshold of FATReLU, which it cannot express.
        only_prosparse: Of `gguf`: write a model whose activation llama.cpp does not have, under an
            architecture name that only prosparse reads.
        data: Of `powerinfer`: text by name, to count how often each neuron fires.
        tokens: Tokens of each data set to count on.
        vram_gb: Of `powerinfer`, with `data`: GB (10^9) of a GPU's memory to fill with the most active
            neurons.
        device: Where to count.
        overwrite: Replace `out` if it exists.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        progress: Show progress bars.

    Returns:
        The record that was written.

    Raises:
        UserError: The engine cannot express the model, an option does not fit, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> ps.export("runs/sparse", to="powerinfer", predictors="runs/predictors", out="runs/pwri")
    """
    started = time.monotonic()
    out = Path(out)
    data = data or {}
    refuse_existing(out, overwrite)
    _check_options(to, predictors, unshifted, only_prosparse, bool(data), vram_gb)
    kind = tensor_type(type)
    found = None if predictors is None else read_predictors(predictors)
    where = choose_device(device) if data else choose_device("cpu")
    tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
    network = load(model, device=where, trust_remote_code=trust_remote_code)
    check_llama(network)
    removed = _unshift(network) if unshifted else None
    name = Path(str(model)).name.removesuffix(".gguf")
    threshold = None
    if found is None:
        architecture = architecture_for(network, only_prosparse)
    else:
        check_expressible(network)
        architecture, threshold = "llama", exported_predictors(network, found)[1]
    counts = _counts(network, tokenizer, data, tokens, progress) if data else None
    file = f"{name}.powerinfer.gguf" if to == "powerinfer" else f"{name}.gguf"
    with whole_folder(out, overwrite) as folder:
        if found is None:
            write_plain(
                network,
                tokenizer,
                folder / file,
                name=name,
                type=kind,
                only_prosparse=only_prosparse,
            )
        else:
            write_powerinfer(network, tokenizer, found, folder / file, name=name, type=kind)
        if counts is not None:
            write_counts(counts, folder)
        capacity = None if vram_gb is None else round(1e9 * vram_gb)
        if counts is not None and capacity is not None:
            size = neuron_bytes(ffns(network)[0], kind)
            index = folder / f"{file}{INDEX_SUFFIX}"
            write_gpu_index(counts, index, capacity=capacity, bytes_of_neuron=size)
        record = ExportRecord(
            model=str(model),
            to=to,
            file=file,
            architecture=architecture,
            type=kind,
            num_bytes=(folder / file).stat().st_size,
            activation=activation_of(network),
            unshifted_from=removed,
            predictors=None if predictors is None else str(predictors),
            sparse_threshold=threshold,
            num_counted_tokens=tokens * len(data),
            vram_bytes=capacity,
            seconds=time.monotonic() - started,
            provenance=provenance(where),
        )
        write_record(record, folder)
    return record


def _check_options(
    to: str,
    predictors: str | Path | None,
    unshifted: bool,
    only_prosparse: bool,
    has_data: bool,
    vram_gb: float | None,
) -> None:
    if to not in TARGETS:
        raise UserError(f"--to must be {' or '.join(TARGETS)}; found '{to}'.")
    if to == "powerinfer" and predictors is None:
        raise UserError(
            "PowerInfer runs models by their predictors; give --predictors, the folder of "
            "`prosparse predictor fit --zero-cuts`."
        )
    for_powerinfer = {
        "--predictors": predictors is not None,
        "--unshifted": unshifted,
        "--data": has_data,
        "--vram-gb": vram_gb is not None,
    }
    wrong = [name for name, is_given in for_powerinfer.items() if is_given]
    if to == "gguf" and wrong:
        raise UserError(f"{wrong[0]} is for --to powerinfer.")
    if to == "powerinfer" and only_prosparse:
        raise UserError("--only-prosparse is for --to gguf.")
    if vram_gb is not None and not (has_data and vram_gb > 0):
        raise UserError(
            "--vram-gb must be above 0, and takes --data: which neurons are worth the room is counted."
        )


def _unshift(model: PreTrainedModel) -> Activation | None:
    """Leave out the threshold of FATReLU; return the activation that was there, None if none was."""
    if not any(isinstance(ffn.activation, FATReLU) for ffn in ffns(model)):
        return None
    return relufy_in_place(model, Activation("relu"))


def _counts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Mapping[str, str | Path | Source],
    tokens: int,
    progress: bool,
) -> Tensor:
    sources = as_sources(data)
    windows = read_windows(sources, tokenizer, min(CONTEXT_LENGTH, tokens), tokens)
    precision = forward_precision("auto", model.device)
    return count_firing(Passes(model, windows, precision, progress))
