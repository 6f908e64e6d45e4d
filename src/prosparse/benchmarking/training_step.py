# SPDX-License-Identifier: Apache-2.0
"""`prosparse bench train-step`: tokens/s and MFU of whole training steps, sharded or not."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import PartialState
from torch.utils.data import Dataset
from transformers import LlamaForCausalLM, PrinterCallback, default_data_collator, set_seed
from transformers.trainer_utils import SaveStrategy

from prosparse.benchmarking.peak import flops_per_token, peak_flops
from prosparse.errors import UserError
from prosparse.model.device import choose_device, device_name, forward_precision, provenance
from prosparse.model.ffn import ffns
from prosparse.model.shapes import llama_config, model_shape
from prosparse.records.codec import decode
from prosparse.records.files import read_log, refuse_existing, whole_folder, write_record
from prosparse.records.training_step import TrainStepRecord
from prosparse.training.arguments import training_arguments
from prosparse.training.recipe import Recipe
from prosparse.training.regularizer import kappa
from prosparse.training.starting_model import recompute_activations
from prosparse.training.trainer import ProSparseTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WARMUPS = 5
LOSS_SLACK = 0.3
"""Nats by which the first loss may differ from what random weights give."""
METHOD = (
    "Random weights and random tokens, trained by the code of `prosparse train`, penalty and counts "
    "included. A step lasts from its log line to the one before, and each waits for the GPU; the median "
    "step counts. MFU is tokens/s of one device * (6 N + 12 L D S) / peak: N parameters without the "
    "input embedding, L layers, width D, context S; what is recomputed is not counted."
)


class RandomTokens(Dataset[dict[str, torch.Tensor]]):
    """Samples of random tokens, each a function of its index.

    Args:
        num_samples: How many.
        context_length: Tokens of each.
        vocab_size: Of the model.
    """

    def __init__(self, num_samples: int, context_length: int, vocab_size: int) -> None:
        self._num_samples = num_samples
        self._length = context_length
        self._vocab_size = vocab_size

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(self._vocab_size, (self._length,), generator=generator)
        return {"input_ids": ids, "labels": ids}


def bench_train_step(
    shape: str = "llama2-7b",
    *,
    num_layers: int | None = None,
    sharding: str = "full",
    context_length: int = 4096,
    micro_batch_size: int = 1,
    accumulation: int = 4,
    steps: int = 20,
    checkpointing: bool = True,
    compiled: bool = True,
    precision: str = "auto",
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
) -> TrainStepRecord | None:
    """Train a model of random weights for some steps, and time them.

    Args:
        shape: `llama2-7b`, `llama2-13b`, `minicpm-1b`, `smollm2-1.7b` or
            `smollm2-135m`.
        num_layers: Fewer than the shape has; None: all.
        sharding: `none` (DDP) or `full` (FSDP2), as in a recipe.
        context_length: Tokens of a sample, >= 2.
        micro_batch_size: Samples of one forward pass on each device.
        accumulation: Micro-batches of one step on each device.
        steps: To time, >= 1, after five that are not.
        checkpointing: Recompute activations in the backward pass.
        compiled: Use torch.compile.
        precision: Of matrix products: `auto`, `float32` or `bfloat16`.
        seed: Of the weights.
        device: `auto`, `cpu` or `cuda`.
        out: Folder for `record.json`; None writes nothing.
        overwrite: Replace `out` if it exists.

    Returns:
        The record; None on any process but the main one.

    Raises:
        UserError: An option is out of range, `out` exists, or the first loss is not what random
            weights give, and so the times are of something else.

    Example:
        >>> import prosparse as ps
        >>> ps.bench_train_step("smollm2-135m", num_layers=2, context_length=128, steps=2)
    """
    started = time.monotonic()
    if steps < 1:
        raise UserError(f"--steps must be at least 1; found {steps}.")
    where = choose_device(device)
    processes = PartialState(cpu=where.type == "cpu")
    if out is not None and processes.is_main_process:
        refuse_existing(Path(out), overwrite)
    model = _random_model(shape, num_layers, where, seed)
    plan = _recipe(
        shape,
        WARMUPS + steps,
        context_length,
        learning_rate=1e-4,
        sharding=sharding,
        micro_batch_size=micro_batch_size,
        gradient_accumulation=accumulation,
        gradient_checkpointing=checkpointing,
        compile=compiled,
        seed=seed,
    )
    chosen = forward_precision(precision, where)
    num_devices = processes.num_processes
    config, num_parameters = model.config, sum(p.numel() for p in model.parameters())
    num_looked_up = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    with tempfile.TemporaryDirectory() as folder:
        log = _train(model, plan, Path(folder), where, chosen, num_devices)
    if not processes.is_main_process:
        return None
    _check(log, config.vocab_size, config.initializer_range**2 * config.hidden_size)
    ends = [line["seconds"] for line in log]
    step_seconds = tuple(b - a for a, b in zip(ends, ends[1:], strict=False))[WARMUPS - 1 :]
    rate = plan.tokens_per_step(num_devices) / num_devices / median(step_seconds)
    flops = flops_per_token(
        num_parameters - num_looked_up, config.num_hidden_layers, config.hidden_size, context_length
    )
    peak = peak_flops(device_name(where)) if chosen == "bfloat16" else None
    record = TrainStepRecord(
        model=shape,
        num_layers=config.num_hidden_layers,
        num_parameters=num_parameters,
        num_devices=num_devices,
        sharding=plan.training.sharding,
        gradient_checkpointing=checkpointing,
        compiled=compiled,
        precision=chosen,
        context_length=context_length,
        micro_batch_size=micro_batch_size,
        gradient_accumulation=accumulation,
        num_warmups=WARMUPS,
        step_seconds=step_seconds,
        tokens_per_second=rate,
        flops_per_token=flops,
        peak_flops=peak,
        mfu=None if peak is None else rate * flops / peak,
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if where.type == "cuda" else None,
        first_loss=log[0]["loss"],
        last_loss=log[-1]["loss"],
        sparsity=log[-1]["sparsity"],
        method=METHOD,
        seconds=time.monotonic() - started,
        provenance=provenance(where, seed),
    )
    if out is not None:
        with whole_folder(Path(out), overwrite) as folder:
            write_record(record, folder)
    return record


def _random_model(
    shape: str, num_layers: int | None, where: torch.device, seed: int
) -> PreTrainedModel:
    """Return a float32 ReLU model, the same on every process: each keeps its own part of it."""
    sizes = model_shape(shape)
    set_seed(seed)
    with torch.device(where):
        model = LlamaForCausalLM(llama_config(sizes, num_layers or sizes.num_layers, "relu"))
    model.config.use_cache = False
    return model


def _recipe(shape: str, num_steps: int, context_length: int, **training: Any) -> Recipe:
    """Return a recipe whose one stage has a penalty; its data are named and never read."""
    data = {
        "model": shape,
        "out": "nowhere",
        "data": {"context_length": context_length, "components": {"random": {"path": "random"}}},
        "training": {**training, "log_every": 1},
        "regularization": {"stages": [{"until": num_steps, "factor": 1.0}]},
    }
    return decode(Recipe, data, "bench train-step")


def _train(
    model: PreTrainedModel,
    plan: Recipe,
    folder: Path,
    where: torch.device,
    precision: str,
    num_devices: int,
) -> list[dict[str, Any]]:
    """Train all steps; return the log, empty on other processes than the main one."""
    arguments = training_arguments(plan, folder, where.type, precision, num_devices)
    arguments.save_strategy = SaveStrategy.NO
    num_tokens = plan.regularization.schedule().num_steps * plan.tokens_per_step(num_devices)
    length = plan.data.context_length
    if plan.training.gradient_checkpointing:
        recompute_activations(model)
    trainer = ProSparseTrainer(
        model=model,
        args=arguments,
        train_dataset=RandomTokens(num_tokens // length, length, model.config.vocab_size),
        data_collator=default_data_collator,
        schedule=plan.regularization.schedule(),
        kappa=kappa("mean", ffns(model)[0].d_ff, None),
        log_path=folder / "log.jsonl",
    )
    trainer.remove_callback(PrinterCallback)
    trainer.clock.start()
    trainer.train()
    return cast("list[dict[str, Any]]", read_log(folder / "log.jsonl"))


def _check(log: list[dict[str, Any]], vocab_size: int, logit_variance: float) -> None:
    """Raise unless the first loss is that of random weights, and all are finite.

    Logits are then normal with the variance of the output weights times the width, the hidden state
    being normalized; so the mean loss is ln V plus half that variance.
    """
    expected, first = math.log(vocab_size) + logit_variance / 2, log[0]["loss"]
    is_finite = all(math.isfinite(line["loss"]) for line in log)
    if not is_finite or abs(first - expected) > LOSS_SLACK:
        raise UserError(
            f"The first loss is {first:.3f} and the last {log[-1]['loss']:.3f}, where random weights "
            f"begin at {expected:.3f}: these steps compute something else, and get no time."
        )
