# SPDX-License-Identifier: Apache-2.0
"""What tells the sparsity controller of a run about each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from prosparse.training.controller import SparsityController
    from prosparse.training.trainer import ProSparseTrainer


class Steering(TrainerCallback):
    """Shows each step's batch to the controller, in every process the same number.

    It must come before whatever measures at the end of a step, because the controller compares the two.
    """

    def __init__(self, trainer: ProSparseTrainer, controller: SparsityController) -> None:
        self._trainer = trainer
        self._controller = controller

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Observe the step that was just taken."""
        self._controller.observe(state.global_step, self._trainer.step_sparsity())
