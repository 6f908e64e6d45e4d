# SPDX-License-Identifier: Apache-2.0
"""What a recipe asks for, worked out before anything is loaded: stages, tokens, memory, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prosparse.errors import UserError
from prosparse.model.checkpoint import skeleton
from prosparse.model.ffn import ffns
from prosparse.training.recipe import Recipe, load_recipe
from prosparse.training.regularizer import kappa

FLOAT32 = 4
# Weights, gradients and AdamW's two moments are float32 in every precision.
BYTES_PER_PARAMETER = 4 * FLOAT32
# The loss is computed in float32: logits, and their gradient.
BYTES_PER_LOGIT = 2 * FLOAT32


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
    num_layers: int
    d_model: int
    d_ff: int
    num_devices: int
    tokens_per_step: int
    """Of all devices together."""
    stages: tuple[PlannedStage, ...]
    state_bytes: int
    """On each device: weights, gradients and optimizer, which every device holds whole."""
    logit_bytes: int
    """On each device: logits of a micro-batch and their gradient."""
    seconds: float | None
    """At the stated throughput; None without one."""

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
    model = skeleton(plan.model, trust_remote_code=trust_remote_code)
    found = ffns(model)
    scale = kappa(
        plan.regularization.normalization, found[0].d_ff, plan.regularization.reference_tokens
    )
    tokens_per_step = (
        plan.tokens_per_micro_batch * plan.training.gradient_accumulation * num_devices
    )
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
        state_bytes=num_parameters * BYTES_PER_PARAMETER,
        logit_bytes=plan.tokens_per_micro_batch * vocabulary * BYTES_PER_LOGIT,
        seconds=None if rate is None else stages[-1].num_tokens / rate,
    )
