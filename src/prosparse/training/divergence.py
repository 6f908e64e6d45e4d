# SPDX-License-Identifier: Apache-2.0
"""A run whose loss or gradient breaks stops before it breaks the weights."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prosparse.errors import RunStopped
from prosparse.training.sharding import whole

if TYPE_CHECKING:
    from prosparse.training.trainer import ProSparseTrainer

WINDOW = 100
"""Steps that a loss is compared with."""
FEWEST = 20
"""Steps to have seen before any comparison, also after a resume, which so gets past a spike."""
DEVIATIONS = 8
"""Standard deviations of those steps' losses that a spike must exceed too: the loss of small
batches is noisy, and no step of a healthy run is that far off."""


class LossWatch:
    """Judges the loss of one step after another.

    Args:
        max_rise: Nats above the mean of the last steps that a loss may be; None: any number.
    """

    def __init__(self, max_rise: float | None) -> None:
        self._max_rise = max_rise
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def judge(self, lm_loss: float, penalty: float, gradient_norm: float) -> str | None:
        """Return what is wrong with a step, as part of a sentence; None when nothing is.

        Args:
            lm_loss: Language-modeling loss, in nats. It alone can jump: the penalty may, where a
                stage begins.
            penalty: What the regularizer adds to it.
            gradient_norm: Before clipping or after.
        """
        numbers = {"loss": lm_loss, "penalty": penalty, "norm of the gradient": gradient_norm}
        for name, value in numbers.items():
            if not math.isfinite(value):
                return f"the {name} is {value}"
        if self._max_rise is not None and len(self._recent) >= FEWEST:
            mean, deviation = fmean(self._recent), pstdev(self._recent)
            if lm_loss > mean + max(self._max_rise, DEVIATIONS * deviation):
                return (
                    f"the loss jumped to {lm_loss:.3f} from {mean:.3f}, the mean of the "
                    f"{len(self._recent)} steps before"
                )
        self._recent.append(lm_loss)
        return None


class StopOnDivergence(TrainerCallback):
    """Looks at each step before the optimizer takes it; a broken one is not taken.

    Every process judges the same numbers, so all stop at the same step. What is saved is the state
    after the last good step.
    """

    def __init__(self, trainer: ProSparseTrainer, max_rise: float | None) -> None:
        self._trainer = trainer
        self._watch = LossWatch(max_rise)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Judge the step whose gradients are there.

        Raises:
            RunStopped: It is broken; what came before is saved.
        """
        wrong = self._watch.judge(*self._numbers())
        if wrong is None:
            return
        self._trainer.save_without_this_step()
        where = self._trainer.log_path.parent
        saved = f"the state after step {state.global_step} is saved in {where}"
        raise RunStopped(
            f"Stopped at step {state.global_step + 1} of {state.max_steps}, because {wrong}; "
            f"{saved if state.global_step else 'there was no step before it to save'}. --resume "
            "tries that step again; another learning rate or lambda is another run."
        )

    def _numbers(self) -> list[float]:
        """Return the step's loss, penalty and gradient norm, fetched from the device together."""
        model = cast("nn.Module", self._trainer.model)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = whole(get_total_norm(gradients)).to(torch.float64)
        return torch.cat([self._trainer.step_losses(), norm[None]]).tolist()
