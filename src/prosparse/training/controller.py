# SPDX-License-Identifier: Apache-2.0
"""lambda steered to a sparsity: the closed loop behind `regularization.target_sparsity`.

The stages before the last are Algorithm 1's (Appendix B of ProSparse): lambda 0, the warm-up, whatever
rises after it. In the last one lambda is an answer to what was measured. What it does to sparsity is,
by the law of Figure 3 (Section 4.4, Q2), once training has settled

    ln(active share) = a lambda^alpha + b,    so    ln ln((active share at lambda 0) / (active share))

is a straight line over ln lambda, of slope alpha. In that measure, here called strength, the same loop
suits every model and every target: lambda changes by an integral of the distance to the target, and by
a lead that slows it down while sparsity, which lags, is still rising.

    d ln lambda = (gain / N) * (strength wanted - strength) / alpha - gain * lead * d strength / alpha

for a stage of N steps. A step of the loop may go no farther than one of the sine stage that would rise
to the same highest lambda: as flat at its beginning, never steeper than in its middle. The sum is kept
in lambda itself, so nothing winds up while this limit holds.

Sparsity comes free with each training batch. Held-out text is what counts, so whenever it is measured
the target is moved by the difference between the two.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from prosparse.training.schedule import Schedule

if TYPE_CHECKING:
    from pathlib import Path

STATE_NAME = "control.json"

ALPHA = 0.3
"""Slope that the loop reckons with: the paper's fit. It is stable at half and at twice that."""
GAIN = 16.0
"""e-foldings of a distance to the target in the length of the stage, where alpha is right."""
LEAD = 1 / 16
"""Time by which the loop looks ahead, as a share of the stage."""
MEMORY = 1 / 40
"""Steps that the mean of batch sparsities reaches back over, as a share of the stage."""
FEWEST_REMEMBERED = 8
FAINTEST = 0.01
"""Least ln(active share at lambda 0 / active share) told from none."""
WEAKEST = 0.01
"""Least lambda, as a share of that in which the last stage begins."""
LARGEST_MOVE = 1.0
"""Of ln lambda in one step, so that a distance however large is no overflow."""


@dataclass(slots=True)
class ControlState:
    """All that the loop remembers; a checkpoint holds it."""

    step: int = 0
    """The last step that was observed."""
    factor: float = 0.0
    """lambda in that step."""
    next_factor: float = 0.0
    """lambda in the next."""
    sparsity: float = 0.0
    """Running mean of the training batches' sparsity."""
    num_remembered: int = 0
    """Steps in that mean, at most its memory."""
    base: float = 0.0
    """The mean at the end of the stage with lambda 0."""
    excess: float | None = None
    """Held-out sparsity minus `sparsity`, mean of the measurements with the newest counting half."""


class SparsityController:
    """Tells lambda for one step after another, from what was observed before it.

    Deterministic: the same observations give the same lambdas, to the last bit. Processes that observe
    the same numbers therefore agree.

    Args:
        schedule: Its first stage has factor 0; the last, which is steered, rises from the factor before
            to no more than its own.
        target: Held-out sparsity to settle at, in (0, 1).
    """

    def __init__(self, schedule: Schedule, target: float) -> None:
        self.target = target
        self.state = ControlState()
        self._schedule = schedule
        self._last = len(schedule.stages) - 1
        self._before = schedule.first_step(self._last) - 1
        self._num_steps = schedule.num_steps - self._before
        self._start = schedule.start_factor(self._last)
        self._highest = schedule.stages[self._last].factor
        self._memory = max(FEWEST_REMEMBERED, round(MEMORY * self._num_steps))

    @property
    def estimate(self) -> float:
        """Held-out sparsity as far as known: the running mean, moved by the last measurements."""
        return self.state.sparsity + (self.state.excess or 0.0)

    def factor(self, step: int) -> float:
        """Return lambda at an optimizer step, counted from 1.

        Args:
            step: In the steered stage, the last one observed or the one after it.
        """
        if step <= self._before:
            return self._schedule.factor(step)
        assert step in (self.state.step, self.state.step + 1), (step, self.state.step)
        return self.state.factor if step == self.state.step else self.state.next_factor

    def observe(self, step: int, sparsity: float) -> None:
        """Take note of an optimizer step's batch, and settle lambda for the next step.

        Args:
            step: The step after the one observed before.
            sparsity: Mean over layers of the step's batch over all processes, in [0, 1].
        """
        state = self.state
        factor, mean_before = self.factor(step), state.sparsity
        state.num_remembered = min(state.num_remembered + 1, self._memory)
        state.sparsity += (sparsity - state.sparsity) / state.num_remembered
        state.step, state.factor = step, factor
        if factor == 0:
            state.base = state.sparsity
        if self._before <= step < self._schedule.num_steps:
            state.next_factor = self._steered(factor, mean_before, step + 1)

    def correct(self, held_out: float) -> None:
        """Take note of the sparsity measured on held-out text after the last step observed."""
        excess = held_out - self.state.sparsity
        before = self.state.excess
        self.state.excess = excess if before is None else (before + excess) / 2

    def slew(self, step: int) -> float:
        """Return how far lambda may move into `step` of the steered stage: a sine stage's step."""
        place = min(step - self._before, (self._num_steps + 1) // 2)  # there it is steepest
        slope = math.sin(math.pi * (place - 0.5) / self._num_steps)
        return (self._highest - self._start) * math.sin(math.pi / 2 / self._num_steps) * slope

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint's folder."""
        (folder / STATE_NAME).write_text(json.dumps(asdict(self.state)), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Go on from the state in a checkpoint's folder."""
        text = (folder / STATE_NAME).read_text(encoding="utf-8")
        self.state = ControlState(**json.loads(text))

    def _steered(self, factor: float, mean_before: float, step: int) -> float:
        now = self._strength(self.state.sparsity)
        wanted = self._strength(self.target - (self.state.excess or 0.0))
        distance = (wanted - now) / ALPHA
        rise = (now - self._strength(mean_before)) / ALPHA
        move = GAIN / self._num_steps * distance - GAIN * LEAD * rise
        asked = factor * math.exp(max(-LARGEST_MOVE, min(LARGEST_MOVE, move)))
        slew = self.slew(step)
        low, high = max(factor - slew, WEAKEST * self._start), min(factor + slew, self._highest)
        return max(low, min(high, asked))

    def _strength(self, sparsity: float) -> float:
        """Return how strongly lambda presses, from what it does; see above."""
        active = max(1e-9, 1 - sparsity)
        return math.log(max(FAINTEST, math.log(max(1e-9, 1 - self.state.base) / active)))
