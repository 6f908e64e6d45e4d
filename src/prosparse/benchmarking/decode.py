# SPDX-License-Identifier: Apache-2.0
"""`prosparse bench decode`: what sparsity buys a whole decode on this machine, and why."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prosparse.benchmarking.decode_contenders import decode_contenders
from prosparse.benchmarking.decode_model import random_model, set_thresholds
from prosparse.benchmarking.decode_predicted import judge_predictors, predicted_contenders
from prosparse.benchmarking.decode_runner import DecodeRunner, OnRow, with_speedups
from prosparse.benchmarking.decode_runs import endless
from prosparse.benchmarking.limit import measure_limit
from prosparse.benchmarking.machine import read_clocks
from prosparse.benchmarking.ops import DTYPES
from prosparse.benchmarking.timing import Repeats, Stopwatch
from prosparse.benchmarking.tinygemm import quantize_attention
from prosparse.data.sources import Source
from prosparse.data.windows import windows
from prosparse.errors import UserError
from prosparse.model.checkpoint import load, load_tokenizer
from prosparse.model.device import choose_device, provenance
from prosparse.model.ffn import ffns
from prosparse.model.quantizing import ffn_places, places, quantize_ffns
from prosparse.model.shapes import Shape, model_shape
from prosparse.predictors.files import read_predictors
from prosparse.quantization.in_place import budget_for, decide, held_only
from prosparse.records.decode_speed import DecodeSpeedRecord
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.runtime.eligible import eligible_ffns
from prosparse.runtime.predicted import predictors_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RANDOM_PROMPT = 32  # tokens
DATA_PROMPT = 64
DEFAULT_PROMPT = "The history of the city begins with a small village at the mouth of the river,"
RUNS, QUICK_RUNS = 3, 1
QUICK_TOKENS = 16


def bench_decode(
    model: str | Path | None = None,
    *,
    shape: str = "llama2-7b",
    num_layers: int | None = None,
    sparsity: float = 0.893,
    prompt: str | None = None,
    data: str | Path | None = None,
    tokens: int = 128,
    dtype: str | None = None,
    weight_bits: int | None = None,
    predictors: str | Path | None = None,
    compiled: bool = True,
    quick: bool = False,
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    on_row: OnRow | None = None,
) -> DecodeSpeedRecord:
    """Time the decode of one token, dense and sparse, each way shown to be exact first.

    Args:
        model: Folder, GGUF file or hub id of a ReLU model; None makes one with random weights.
        shape: Of random weights: `llama2-7b`, `llama2-13b`, `minicpm-1b`, `smollm2-1.7b` or
            `smollm2-135m`.
        num_layers: Of random weights: fewer layers than the shape has.
        sparsity: Of random weights: share of inactive neurons, set by a threshold in each layer.
        prompt: Of a `model`: text to go on from.
        data: Of a `model`, instead of a prompt: documents whose first 64 tokens are the prompt.
        tokens: New tokens, >= 2; the end-of-text token does not end them.
        dtype: `bfloat16`, `float16` or `float32`; None is the checkpoint's own, and bfloat16 for
            random weights.
        weight_bits: Hold FFN weights in 4 or 8 bits, dense and sparse alike; with 4 on a
            GPU the projections of attention too, by PyTorch's own int4 layer for bfloat16. Of a
            `model`, FFN projections that the prompt shows not to bear it stay in more.
        predictors: Of a `model`: folder of `prosparse predictor fit`, to decode by them as well.
        compiled: Also run what torch.compile makes; on a CPU minutes, and only with a C++ compiler.
        quick: At most 16 tokens, one timed run.
        device: `auto`, `cpu`, `cuda`, ...
        seed: Of weights and tokens.
        out: Folder for `record.json`; None writes nothing.
        overwrite: Replace `out` if it exists.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        on_row: Called with each row as it is measured.

    Returns:
        The record. A row whose tokens, logits or zeros were wrong has no time.

    Raises:
        UserError: The model is not sparse or cannot be loaded, an option is out of range, or `out`
            exists.

    Example:
        >>> import prosparse as ps
        >>> record = ps.bench_decode("runs/demo/model", prompt="The capital of France is")
    """
    started = time.monotonic()
    if out is not None:
        refuse_existing(Path(out), overwrite)
    num_tokens = min(tokens, QUICK_TOKENS) if quick else tokens
    _check_options(num_tokens, sparsity, dtype, weight_bits)
    if model is None and not (prompt is None and data is None):
        raise UserError(
            "--prompt and --data are for a MODEL to go on from; random weights get none."
        )
    if predictors is not None and (model is None or weight_bits is not None):
        raise UserError("--predictors are of a MODEL, whose weights are not quantized.")
    chosen = None if predictors is None else read_predictors(predictors)
    where = choose_device(device)
    wanted = None if dtype is None else DTYPES[dtype]
    if model is None:
        size = model_shape(shape)
        network = random_model(size, num_layers, wanted or torch.bfloat16, where, seed)
        set_thresholds(network, sparsity, seed)
        ids = _random_prompt(size, seed)
    else:
        tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
        ids = _read_prompt(tokenizer, prompt, data)
        network = load(model, dtype=wanted, device=where, trust_remote_code=trust_remote_code)
    found = eligible_ffns(network)  # a dense model is refused before anything slow
    if chosen is not None:
        predictors_for(network, found, chosen)  # refuses
    if weight_bits is not None:
        _quantize(network, weight_bits, None if model is None else ids.to(where))
    runs = QUICK_RUNS if quick else RUNS
    runner = DecodeRunner(network, ids.to(where), num_tokens, runs, on_row or (lambda row: None))
    limit = measure_limit(where, Stopwatch(where, Repeats(2, 9)))
    with torch.no_grad(), endless(network):
        runner.prepare()
        entrants = decode_contenders(where, compiled, weight_bits)
        predicted = None
        if chosen is not None:
            predicted = judge_predictors(
                network, chosen, _name(predictors or ""), ids.to(where), runner.dense
            )
            entrants += predicted_contenders(where, compiled, chosen, predicted)
        breakdown = runner.take_apart(entrants)
        for contender in entrants:
            runner.run(contender)
    ffn = ffns(network)[0]
    layers = runner.layer_sparsity
    record = DecodeSpeedRecord(
        model=shape if model is None else _name(model),
        is_random=model is None,
        num_layers=len(layers),
        d_model=ffn.d_model,
        d_ff=ffn.d_ff,
        dtype=str(network.dtype).removeprefix("torch."),
        prompt_tokens=ids.shape[1],
        new_tokens=num_tokens,
        weight_bits=weight_bits,
        asked_sparsity=sparsity if model is None else None,
        sparsity=sum(layers) / len(layers),
        layer_sparsity=layers,
        dense_mb=runner.traffic.dense,
        ffn_mb=runner.traffic.ffn,
        limit=limit,
        rows=with_speedups(runner.rows),
        not_run=tuple(runner.not_run),
        exactness=tuple(runner.exactness.values()),
        bound_method=runner.dense.bound_method,
        num_repeats=runs,
        breakdown=breakdown,
        predicted=predicted,
        clocks=read_clocks(where),
        seconds=time.monotonic() - started,
        provenance=provenance(where, seed),
    )
    if out is not None:
        with whole_folder(Path(out), overwrite) as folder:
            write_record(record, folder)
    return record


def _name(model: str | Path) -> str:
    """Return what the record calls a model: absolute paths without their folders, as in commands."""
    return Path(model).name if Path(model).is_absolute() else str(model)


def _random_prompt(shape: Shape, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randint(shape.vocab_size, (1, RANDOM_PROMPT), generator=generator)


def _read_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | None, data: str | Path | None
) -> Tensor:
    """Return the prompt's token ids, [1, P]."""
    if prompt is not None and data is not None:
        raise UserError("Give --prompt or --data, not both.")
    if data is not None:
        return windows(Source(path=str(data)), "prompt", tokenizer, DATA_PROMPT, DATA_PROMPT)
    ids = torch.tensor([tokenizer(DEFAULT_PROMPT if prompt is None else prompt)["input_ids"]])
    if ids.numel() == 0:
        raise UserError("--prompt is empty; give at least one word to go on from.")
    return ids


def _quantize(network: PreTrainedModel, bits: int, calibration: Tensor | None) -> None:
    """Quantize the FFNs, and for tinygemm's 4 bits attention; random weights bear anything."""
    uses_tinygemm = bits == 4 and network.device.type == "cuda"
    if uses_tinygemm and network.dtype != torch.bfloat16:
        raise UserError(
            f"--weight-bits 4 is compared with PyTorch's int4 layer, which takes bfloat16; found "
            f"{str(network.dtype).removeprefix('torch.')}: give --dtype bfloat16."
        )
    places(network)  # refuses
    if calibration is None:
        quantize_ffns(network, bits)
    else:
        budget = math.log1p(budget_for(bits, None))
        plan = decide(network, calibration, bits, budget, False, among=ffn_places(network))
        quantize_ffns(network, held_only(plan))
    if uses_tinygemm:
        quantize_attention(network)


def _check_options(
    tokens: int, sparsity: float, dtype: str | None, weight_bits: int | None
) -> None:
    if weight_bits not in (None, 4, 8):
        raise UserError(f"--weight-bits must be 4 or 8; found {weight_bits}.")
    if tokens < 2:
        raise UserError(f"--tokens must be at least 2; found {tokens}.")
    if not 0 <= sparsity <= 1:
        raise UserError(f"--sparsity must be in [0, 1]; found {sparsity:g}.")
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"--dtype must be one of {', '.join(DTYPES)}; found '{dtype}'.")
