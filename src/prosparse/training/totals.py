# SPDX-License-Identifier: Apache-2.0
"""What a run sums up between two lines of its log, and the time it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from prosparse.training.regularizer import Intermediates

NUM_LOSSES = 4


class Totals:
    """Sums over the micro-batches since the last log line, kept on the device until it is due.

    Those of the step under way are kept apart: a step that is not taken is not logged either.
    """

    def __init__(self, num_layers: int, device: torch.device, seconds: float) -> None:
        self.values = torch.zeros(NUM_LOSSES + num_layers, dtype=torch.float64, device=device)
        """[lm loss, l1, regularization, distance to the teacher, active entries of each layer], of
        this process."""
        self.step_values = torch.zeros_like(self.values)
        self._step_tokens: int | None = None
        self.reset(seconds)

    @property
    def num_tokens_with_this_step(self) -> int:
        """Tokens since the last log line, those of the step under way among them."""
        return self.num_tokens + (self._step_tokens or 0)

    def begin_step(self, num_tokens: int) -> None:
        """Begin an optimizer step, of `num_tokens` over all processes; the one before was taken."""
        self.close_step()
        self._step_tokens = num_tokens

    def add(
        self,
        lm_loss: Tensor,
        l1: Tensor,
        regularization: Tensor,
        seen: Intermediates,
        distance: Tensor | None = None,
    ) -> None:
        """Add one micro-batch's shares; without a teacher there is no distance."""
        distance = torch.zeros_like(lm_loss) if distance is None else distance
        self.step_values[:NUM_LOSSES] += torch.stack([lm_loss, l1, regularization, distance])
        self.step_values[NUM_LOSSES:] += seen.active_L

    def close_step(self) -> None:
        """Count the step under way, if there is one."""
        if self._step_tokens is not None:
            self.num_steps += 1
            self.num_tokens += self._step_tokens
            self.values += self.step_values
        self.drop_step()

    def drop_step(self) -> None:
        """Forget the step under way."""
        self.step_values.zero_()
        self._step_tokens = None

    def reset(self, seconds: float) -> None:
        """Start anew at a time."""
        self.values.zero_()
        self.num_steps, self.num_tokens, self.since_seconds = 0, 0, seconds


class Clock:
    """Wall-clock seconds of training, without measurements and checkpoint writing."""

    def __init__(self, seconds_before: float) -> None:
        self._elapsed = seconds_before
        self._since: float | None = None

    def start(self) -> None:
        """Start running."""
        self._since = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds so far."""
        return self._elapsed + (time.monotonic() - self._since if self._since is not None else 0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still inside the block."""
        self._elapsed, self._since = self.seconds(), None
        try:
            yield
        finally:
            self.start()
