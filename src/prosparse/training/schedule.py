# SPDX-License-Identifier: Apache-2.0
"""Progressive sparsity regularization: lambda as a pure function of the step.

Algorithm 1 (Appendix B of ProSparse). Stage 0 has lambda 0 and lets the model adapt to ReLU. The
first stage with a penalty, the warm-up, holds its lambda. Every later stage rises from the previous
peak to its own along half a sine period, flat at both ends, so that activations are never pushed
suddenly; two equal peaks make a constant stage. The decay and SFT stages of Table 7 hold a lambda
of their own, which may be lower: they are marked `fixed`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from prosparse.errors import UserError


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the schedule."""

    until: int
    """T_i: the last optimizer step of the stage, counted from 1 over the whole run."""
    factor: float
    """Peak lambda of the stage, >= 0."""
    fixed: bool = False
    """Hold `factor` throughout, even below the previous peak (decay and SFT stages, Table 7)."""
    name: str | None = None
    """Name in tables and plots; `stage i` when left out."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A checked sequence of stages.

    Raises:
        UserError: No stage, T_i out of order, a negative lambda or one that decreases, or two
            stages of one name.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("stages: give at least one stage, such as {until: 1000, factor: 0}.")
        previous, names = Stage(until=0, factor=0.0), set()
        for index, stage in enumerate(self.stages):
            where = f"stages[{index}]"
            if stage.until <= previous.until:
                raise UserError(
                    f"{where}.until is {stage.until}, but must be greater than {previous.until}, "
                    "where the stage before it ends: the step counts accumulate."
                )
            if not (math.isfinite(stage.factor) and stage.factor >= 0):
                raise UserError(f"{where}.factor (lambda) must be >= 0; found {stage.factor}.")
            if stage.factor < previous.factor and not stage.fixed:
                raise UserError(
                    f"{where}.factor decreases from {previous.factor} to {stage.factor}; lambda "
                    "may only rise (mark a decay or SFT stage with 'fixed: true')."
                )
            name = self.stage_name(index)
            if name in names:
                raise UserError(f"{where} is called '{name}', as is a stage before it.")
            previous = stage
            names.add(name)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole schedule, T_S."""
        return self.stages[-1].until

    def stage_at(self, step: int) -> int:
        """Return the index of the stage that `step` (counted from 1) belongs to."""
        ends = [stage.until for stage in self.stages]
        return min(bisect_left(ends, step), len(ends) - 1)

    def first_step(self, index: int) -> int:
        """Return the first step of stage `index`, counted from 1."""
        return self.stages[index - 1].until + 1 if index else 1

    def start_factor(self, index: int) -> float:
        """Return the lambda from which stage `index` rises; its own when it does not rise."""
        stage = self.stages[index]
        previous = self.stages[index - 1].factor if index else 0.0
        is_warmup = previous == 0.0
        return stage.factor if stage.fixed or is_warmup else previous

    def factor(self, step: int) -> float:
        """Return lambda at an optimizer step, counted from 1 as in Algorithm 1.

        lambda = lambda_{i-1} + eta (lambda_i - lambda_{i-1}), with
        eta = (sin(-pi/2 + pi (t - T_{i-1}) / (T_i - T_{i-1})) + 1) / 2.
        """
        index = self.stage_at(step)
        stage, start = self.stages[index], self.start_factor(index)
        before = self.first_step(index) - 1
        progress = min(1.0, (step - before) / (stage.until - before))
        eta = (math.sin(-math.pi / 2 + math.pi * progress) + 1) / 2
        return start + eta * (stage.factor - start)

    def stage_name(self, index: int) -> str:
        """Return what tables and plots call stage `index`."""
        return self.stages[index].name or f"stage {index}"
