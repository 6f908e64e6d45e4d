# SPDX-License-Identifier: Apache-2.0
"""The Trainer's checkpoints: whole or not at all, and sharded where the model may be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from prosparse.training.checkpoints import (
    PREFIX,
    newest_first,
    publish,
    staging,
    step_of,
    told_when_unwritten,
)

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from prosparse.training.sharded_checkpoints import ShardedCheckpoints
    from prosparse.training.totals import Clock

KEPT_CHECKPOINTS = 2


class CheckpointingTrainer(Trainer):
    """transformers.Trainer that writes every checkpoint aside until it is whole.

    Args:
        clock: Stands still while a checkpoint is written and training waits for it.
        sharded: Writes and reads weights and optimizer, whatever the number of processes; None: the
            Trainer does.
        **kwargs: As for `transformers.Trainer`.
    """

    def __init__(
        self, *, clock: Clock, sharded: ShardedCheckpoints | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.clock = clock
        self._sharded = sharded

    def save_this_step(self) -> None:
        """Save the state after the last step that was taken, unless it is saved or there is none."""
        if self._sharded is not None:
            self._sharded.wait()
        saved = [step_of(path) for path in newest_first(self._folder)]
        if self.state.global_step and self.state.global_step not in saved:
            self._save_checkpoint(self.model_wrapped, trial=None)

    def _get_output_dir(self, trial: Any) -> str:
        """Return where the Trainer writes a checkpoint: aside, until it is whole."""
        return str(staging(self._folder))

    @property
    def _folder(self) -> Path:
        return Path(cast("str", self.args.output_dir))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder, step = self._folder, self.state.global_step
        with self.clock.paused(), told_when_unwritten(f"The checkpoint of step {step}"):
            if self._sharded is not None:
                self._sharded.wait()
            if self.args.should_save:
                shutil.rmtree(staging(folder), ignore_errors=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(*args, **kwargs)
            if self.args.should_save:
                self._save_own_state(staging(folder) / f"{PREFIX}{step}")
            self.accelerator.wait_for_everyone()

            def publish_it() -> None:
                if self.args.should_save:
                    publish(folder, step, KEPT_CHECKPOINTS)

            if self._sharded is None:
                publish_it()
                self.accelerator.wait_for_everyone()
            else:
                written = staging(folder) / f"{PREFIX}{step}"
                self._sharded.begin(
                    written, cast("nn.Module", self.model), self._torch_optimizer, publish_it
                )

    def _save_own_state(self, checkpoint: Path) -> None:
        """Write what a subclass wants in the folder of a checkpoint; the main process does."""

    @contextmanager
    def all_written(self) -> Iterator[None]:
        """Leave the block when the last checkpoint that was begun in it is whole."""
        try:
            yield
        finally:
            if self._sharded is not None:
                with told_when_unwritten("The last checkpoint"):
                    self._sharded.wait()

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Write the weights of a checkpoint, unless they are written with the optimizer."""
        if self._sharded is None:
            super().save_model(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._sharded is None:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            torch.save(self._scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self._sharded is None:
            super()._load_from_checkpoint(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._sharded is None:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            self._sharded.load(
                Path(checkpoint), cast("nn.Module", self.model), self._torch_optimizer
            )
            state = torch.load(Path(checkpoint, SCHEDULER_NAME), weights_only=True)
            self._scheduler.load_state_dict(state)

    @property
    def _scheduler(self) -> LRScheduler:
        return cast("LRScheduler", self.lr_scheduler)

    @property
    def _torch_optimizer(self) -> Optimizer:
        return cast("AcceleratedOptimizer", self.optimizer).optimizer
