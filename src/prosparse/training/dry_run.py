# SPDX-License-Identifier: Apache-2.0
"""What a recipe asks for, before anything is loaded: stages, tokens, memory, disk, time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prosparse.data.mixture import Component
from prosparse.data.sources import local_files
from prosparse.data.tokens import bytes_per_token
from prosparse.errors import UserError
from prosparse.model.checkpoint import skeleton
from prosparse.model.ffn import ffns
from prosparse.model.shapes import SHAPES, llama_config
from prosparse.training.adapters import add_adapters
from prosparse.training.recipe import Recipe
from prosparse.training.recipe_file import load_recipe
from prosparse.training.regularizer import kappa, layer_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOAT32 = 4
# Weights, gradients and AdamW's two moments are float32 in every precision.
BYTES_OF_MOMENTS = 2 * FLOAT32
BYTES_PER_TRAINED_PARAMETER = FLOAT32 + BYTES_OF_MOMENTS
"""Beside the weight itself."""
# The loss is computed in float32: logits, and their gradient.
BYTES_PER_LOGIT = 2 * FLOAT32
# A checkpoint to resume from holds weights and both moments; two are kept while a third is written.
NUM_CHECKPOINTS = 3


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage of the schedule, in numbers."""

    name: str
    num_steps: int
    until: int
    """T_i: its last optimizer step, counted over the whole run."""
    num_tokens: int
    """Seen by the end of the stage, over the whole run."""
    start_factor: float
    """lambda at its beginning."""
    factor: float
    """lambda at its end."""
    start_coefficient: float
    """c = lambda * kappa at its beginning."""
    coefficient: float
    """c at its end."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run will be."""

    model: str
    num_parameters: int
    num_trained: int
    """Parameters that are trained: all, or those of adapters."""
    num_layers: int
    d_model: int
    d_ff: int
    num_devices: int
    tokens_per_step: int
    """Of all devices together."""
    stages: tuple[PlannedStage, ...]
    state_bytes: int
    """On each device: weights, gradients and optimizer, whole or its part of them, and a teacher of the
    model's own size, which every device holds whole."""
    load_bytes: int
    """On each device: the weights while the model is loaded and not yet sharded, whole."""
    logit_bytes: int
    """On each device: logits of a micro-batch and their gradient."""
    checkpoint_bytes: int
    """On disk, while the run lasts: its newest checkpoints."""
    token_bytes: int
    """On disk, while the run lasts, at most: tokens of the hub data sets, each of which is read
    only as far as the run needs. Local files, of unknown length, come on top."""
    seconds: float | None
    """At the stated throughput; None without one."""
    target_sparsity: float | None = None
    """What the last stage steers to; its lambda is the most it may be."""

    @property
    def num_tokens(self) -> int:
        """Of the whole run."""
        return self.stages[-1].num_tokens


def dry_run(
    recipe: str | Path | Recipe,
    *,
    overrides: Sequence[str] = (),
    num_devices: int = 1,
    tokens_per_second: float | None = None,
    trust_remote_code: bool = False,
) -> DryRun:
    """Return what a recipe asks for; reads the model's configuration, and neither weights nor data.

    Where the recipe names the model's `architecture` and the model is not on this machine, not even
    that is read: no network is needed.

    Args:
        recipe: YAML file, or a `Recipe`.
        overrides: `key.path=value` each, applied to a YAML file.
        num_devices: GPUs that take part, >= 1.
        tokens_per_second: Throughput of one GPU, > 0, to tell the time from.
        trust_remote_code: Run modeling code that comes with the checkpoint.

    Raises:
        UserError: The recipe or the model cannot be used, or a number is out of range.

    Example:
        >>> from prosparse.training.dry_run import dry_run
        >>> dry_run("recipes/demo.yaml").tokens_per_step
        2048
    """
    if num_devices < 1:
        raise UserError(f"--gpus must be at least 1; found {num_devices}.")
    if tokens_per_second is not None and not tokens_per_second > 0:
        raise UserError(f"--tokens-per-second must be > 0; found {tokens_per_second:g}.")
    plan = load_recipe(recipe, overrides)
    model = _skeleton(plan, trust_remote_code)
    found = ffns(model)
    scale = kappa(
        plan.regularization.normalization, found[0].d_ff, plan.regularization.reference_tokens
    )
    layer_weights(plan.regularization.layer_weights, len(found))  # as many as there are layers
    tokens_per_step = plan.tokens_per_step(num_devices)
    schedule = plan.regularization.schedule()
    stages = tuple(
        PlannedStage(
            name=schedule.stage_name(index),
            num_steps=stage.until - schedule.first_step(index) + 1,
            until=stage.until,
            num_tokens=stage.until * tokens_per_step,
            start_factor=schedule.start_factor(index),
            factor=stage.factor,
            start_coefficient=schedule.start_factor(index) * scale,
            coefficient=stage.factor * scale,
        )
        for index, stage in enumerate(schedule.stages)
    )
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    num_trained = num_parameters
    num_held = num_parameters
    if plan.lora is not None:
        add_adapters(model, plan.lora)
        num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        num_held += num_trained
    teacher_bytes = 0
    if plan.distillation is not None:
        is_half = plan.training.precision == "bfloat16"
        teacher_bytes = num_parameters * (FLOAT32 // 2 if is_half else FLOAT32)
    rate = None if tokens_per_second is None else tokens_per_second * num_devices
    vocabulary = model.get_input_embeddings().get_parameter("weight").shape[0]
    return DryRun(
        model=plan.model,
        num_parameters=num_parameters,
        num_layers=len(found),
        d_model=found[0].d_model,
        d_ff=found[0].d_ff,
        num_devices=num_devices,
        tokens_per_step=tokens_per_step,
        stages=stages,
        num_trained=num_trained,
        state_bytes=_state_bytes(num_held, num_trained, plan.training.sharding, num_devices)
        + teacher_bytes,
        load_bytes=num_held * FLOAT32,
        logit_bytes=plan.tokens_per_micro_batch * vocabulary * BYTES_PER_LOGIT,
        checkpoint_bytes=(num_held * FLOAT32 + num_trained * BYTES_OF_MOMENTS) * NUM_CHECKPOINTS,
        token_bytes=round(
            stages[-1].num_tokens * _share_from_hub(plan) * bytes_per_token(vocabulary)
        ),
        seconds=None if rate is None else stages[-1].num_tokens / rate,
        target_sparsity=plan.regularization.target_sparsity,
    )


def _state_bytes(num_held: int, num_trained: int, sharding: str, num_devices: int) -> int:
    """Return the bytes of weights, gradients and moments on each device."""
    whole = num_held * FLOAT32 + num_trained * BYTES_PER_TRAINED_PARAMETER
    return math.ceil(whole / num_devices) if sharding == "full" else whole


def _skeleton(plan: Recipe, trust_remote_code: bool) -> PreTrainedModel:
    """Return the model without weights, from its own configuration or the architecture's name."""
    if plan.architecture is None or Path(plan.model).expanduser().exists():
        return skeleton(plan.model, trust_remote_code=trust_remote_code)
    from transformers import LlamaForCausalLM

    shape = SHAPES[plan.architecture]
    with torch.device("meta"):
        return LlamaForCausalLM(llama_config(shape, shape.num_layers, "silu"))


def _share_from_hub(plan: Recipe) -> float:
    """Return how many of the run's tokens may come from the hub, as a share of all.

    Without weights every hub data set may be read for the whole run, so it can be above 1.
    """
    components = plan.data.components
    weights = {name: c.weight for name, c in components.items() if c.weight is not None}
    total = sum(weights.values())
    return sum(
        weights[name] / total if weights else 1.0
        for name, component in components.items()
        if _is_on_hub(component, name)
    )


def _is_on_hub(component: Component, name: str) -> bool:
    try:
        return local_files(component, name) is None
    except UserError:  # a file that is not there yet; a run would say so
        return False
