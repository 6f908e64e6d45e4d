# SPDX-License-Identifier: Apache-2.0
"""The `training` section of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from prosparse.errors import UserError

Tracker = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The optimizer and how its steps are computed."""

    learning_rate: float
    """Peak learning rate of AdamW."""
    final_learning_rate_ratio: float = 0.1
    """Where the cosine ends, as a share of the peak."""
    warmup_steps: int = 0
    """Optimizer steps of linear learning-rate warm-up."""
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 clips nothing."""
    micro_batch_size: int = 1
    """Samples in one forward pass on one device."""
    gradient_accumulation: int = 1
    """Micro-batches in one optimizer step, on each device."""
    samples_per_step: int | None = None
    """Samples in one optimizer step over all devices, instead of `gradient_accumulation`: the same
    training on any number of devices that divides it."""
    sharding: Literal["none", "full"] = "none"
    """How several processes share the weights: each has all (DDP), or each a part (FSDP2)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the model with torch.compile."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; weights and optimizer are float32. `auto`: bfloat16 where it is fast."""
    max_loss_rise: float | None = 2.0
    """Nats by which a step's loss may exceed the mean of the steps before; more stops the run. None
    allows any rise; a loss or gradient that is not finite stops it always."""
    report_to: tuple[Tracker, ...] = ()
    """Trackers to tell beside log.jsonl."""
    seed: int = 0
    log_every: int = 10
    """Optimizer steps between lines of log.jsonl."""
    save_every: int = 500
    """Optimizer steps between checkpoints to resume from; the end of a stage always saves one."""

    def __post_init__(self) -> None:
        for name in ("micro_batch_size", "gradient_accumulation", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; found {getattr(self, name)}.")
        if self.max_loss_rise is not None and not 0 < self.max_loss_rise < math.inf:
            raise UserError(f"max_loss_rise must be > 0; found {self.max_loss_rise}.")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate must be > 0; found {self.learning_rate}.")
        for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be >= 0; found {getattr(self, name)}.")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be >= 0 and < 1; found {getattr(self, name)}.")
        if not 0 <= self.final_learning_rate_ratio <= 1:
            raise UserError(
                "final_learning_rate_ratio must be from 0 to 1; found "
                f"{self.final_learning_rate_ratio}."
            )
        if self.samples_per_step is not None:
            if self.gradient_accumulation != 1:
                raise UserError("give gradient_accumulation or samples_per_step, not both.")
            self.accumulation(1)

    def accumulation(self, num_devices: int) -> int:
        """Return the micro-batches of one optimizer step on each of `num_devices`.

        Raises:
            UserError: `samples_per_step` cannot be shared equally.
        """
        if self.samples_per_step is None:
            return self.gradient_accumulation
        samples = num_devices * self.micro_batch_size
        if self.samples_per_step < samples or self.samples_per_step % samples:
            raise UserError(
                f"samples_per_step {self.samples_per_step} is no multiple of {samples}: "
                f"{num_devices} device(s) with micro_batch_size {self.micro_batch_size} cannot "
                "share it; change one of the three."
            )
        return self.samples_per_step // samples
