# SPDX-License-Identifier: Apache-2.0
"""What happens beside the training steps: stage ends, progress, Ctrl-C and SIGTERM."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import broadcast, reduce
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prosparse.training.milestones import Milestones, numbers_of
from prosparse.training.sharding import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prosparse.records.run import Milestone
    from prosparse.training.trainer import ProSparseTrainer

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StageEnds(TrainerCallback):
    """At the end of each stage: measure, log, and save a checkpoint to resume from.

    Args:
        trainer: Whose steps these are.
        milestones: What measures.
        every: Optimizer steps between measurements within a stage; None makes none.
    """

    def __init__(
        self, trainer: ProSparseTrainer, milestones: Milestones, every: int | None
    ) -> None:
        self._trainer = trainer
        self._milestones = milestones
        self._every = every

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock after everything is loaded."""
        self._trainer.clock.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Act when the step just done was the last of its stage, or one to measure after."""
        schedule, step = self._trainer.schedule, state.global_step
        stage = schedule.stage_at(step)
        if schedule.stages[stage].until == step:
            control.should_log = control.should_save = True
            self._measure(schedule.stage_name(stage), state)
        elif self._every is not None and step % self._every == 0:
            self._measure(f"step {step}", state)
        if step % args.save_steps == 0 or control.should_save:
            # A log line never spans a checkpoint, so a resumed run logs what this one would have.
            control.should_log = True

    def _measure(self, label: str, state: TrainerState) -> None:
        milestone = self._milestone(label, state)
        if self._trainer.controller is not None:
            found = torch.tensor(milestone.sparsity if milestone else math.nan)
            sparsity = float(broadcast(found.double().to(self._trainer.args.device)))
            if math.isfinite(sparsity):
                self._trainer.controller.correct(sparsity)

    def _milestone(self, label: str, state: TrainerState) -> Milestone | None:
        model = cast("PreTrainedModel", self._trainer.model)
        if not (state.is_world_process_zero or is_sharded(model)):
            return None
        # A model compiled layer by layer would be compiled once more for the measurement.
        with self._trainer.clock.paused(), torch.compiler.set_stance("force_eager"):
            milestone = self._milestones.measure(
                label,
                model,
                step=state.global_step,
                factor=self._trainer.factor(state.global_step),
                tokens_seen=self._trainer.tokens_seen,
            )
        if milestone is not None:
            is_line_due = self._trainer.control.should_log
            self._trainer.log(numbers_of(milestone))
            # Logging takes the flag of the step's own line down, here but in no other process.
            self._trainer.control.should_log = is_line_due
        return milestone


class Progress(TrainerCallback):
    """A bar over the tokens of the run, with the loss, the sparsity and lambda of the last log."""

    def __init__(self, tokens_per_step: int) -> None:
        self._tokens_per_step = tokens_per_step
        self._bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where the run stands."""
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps * self._tokens_per_step,
                initial=state.global_step * self._tokens_per_step,
                desc="training",
                unit="tok",
                unit_scale=True,
                smoothing=0.05,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance."""
        if self._bar is not None:
            self._bar.update(self._tokens_per_step)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest numbers."""
        if self._bar is not None and logs and "lm_loss" in logs:
            self._bar.set_postfix_str(
                f"loss {logs['lm_loss']:.3f}, sparsity {logs['sparsity']:.1%}, "
                f"lambda {logs['factor']:.3g}"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class StopOnInterrupt(TrainerCallback):
    """On the first Ctrl-C or SIGTERM, finish the step, save a checkpoint and stop; the second kills.

    SIGTERM is what schedulers send before they take a machine away. Programs like timeout(1) send one
    interrupt twice, to the process and to its group; what comes within a second of the first is
    therefore the first.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._noted_at = 0.0
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the signals; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in STOPPING}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop where a checkpoint is whole."""
        if args.world_size > 1:  # at the same step, or the others would wait for ever
            noted = torch.tensor(int(self.interrupted), device=args.device)
            self.interrupted = bool(reduce(noted, "sum").item())
        if self.interrupted and state.global_step < state.max_steps:
            control.should_log = control.should_save = control.should_training_stop = True

    def restore(self) -> None:
        """Give the signals back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if not self.interrupted:
            tqdm.write("Stopping after this step; Ctrl-C again stops at once.", file=sys.stderr)
            self.interrupted, self._noted_at = True, time.monotonic()
        elif time.monotonic() - self._noted_at > 1:
            self.restore()
            raise KeyboardInterrupt
