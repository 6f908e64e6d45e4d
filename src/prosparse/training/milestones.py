# SPDX-License-Identifier: Apache-2.0
"""The model measured at the points of a run that the table shows, kept so that a resume knows."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from prosparse.measurement.perplexity import Windows, measure_windows
from prosparse.model.relufy import activation_of
from prosparse.records.codec import decode, encode
from prosparse.records.files import read_log, write_whole
from prosparse.records.run import Milestone
from prosparse.records.sparsity import pool_layer_sparsity

logger = logging.getLogger(__name__)

OnMilestone = Callable[[Milestone], None]


class Milestones:
    """Measures, remembers on disk, and tells.

    Args:
        path: JSONL file with one milestone a line.
        held_out: What to measure on; empty measures nothing and records no milestone.
        precision: `float32` or `bfloat16`.
        tell: Called with each milestone as it comes true, or again when a run resumes after it.
        progress: Show a progress bar while measuring.
        max_drop: How far sparsity may fall below that before training without a warning.
        is_main: Whether this process remembers on disk and warns; several may measure together.
    """

    def __init__(
        self,
        path: Path,
        held_out: Sequence[Windows],
        precision: str,
        tell: OnMilestone | None,
        progress: bool,
        max_drop: float | None = None,
        is_main: bool = True,
    ) -> None:
        self._path = path
        self._held_out = held_out
        self._precision = precision
        self._tell = tell or (lambda milestone: None)
        self._progress = progress
        self._max_drop = max_drop
        self._is_main = is_main
        self.reached: list[Milestone] = []

    def restore(self, last_step: int) -> None:
        """Read back what was reached up to `last_step`; forget what came after it."""
        lines = read_log(self._path)
        milestones = [decode(Milestone, line, str(self._path)) for line in lines]
        self.reached = [m for m in milestones if m.step <= last_step]
        self._write()
        for milestone in self.reached:
            self._tell(milestone)

    def has(self, label: str) -> bool:
        """Return whether a milestone was already reached."""
        return any(milestone.label == label for milestone in self.reached)

    def measure(
        self, label: str, model: PreTrainedModel, *, step: int, factor: float, tokens_seen: int
    ) -> Milestone | None:
        """Measure the model as it is now, unless this milestone was reached before.

        Returns:
            What was measured; None when nothing was.
        """
        if not self._held_out or self.has(label):
            return None
        measures = tuple(
            measure_windows(
                model,
                windows,
                precision=self._precision,
                progress=f"measuring {label}: {windows.name}" if self._progress else None,
            ).summary()
            for windows in self._held_out
        )
        layers = pool_layer_sparsity(measures)
        milestone = Milestone(
            label=label,
            activation=activation_of(model),
            step=step,
            factor=factor,
            tokens_seen=tokens_seen,
            sparsity=sum(layers) / len(layers),
            layer_sparsity=layers,
            data=measures,
        )
        self.reached.append(milestone)
        self._write()
        self._tell(milestone)
        self._warn_of_a_drop(milestone)
        return milestone

    def _warn_of_a_drop(self, milestone: Milestone) -> None:
        """Warn when training has taken sparsity away (Appendix J: it does without a penalty)."""
        before = [m for m in self.reached if m.step == 0]
        if self._max_drop is None or not self._is_main or milestone.step == 0 or not before:
            return
        start = before[-1].sparsity
        if milestone.sparsity < start - self._max_drop:
            logger.warning(
                "Held-out sparsity has fallen to %.2f %% at step %d, from %.2f %% before training; "
                "a larger lambda (regularization.stages[].factor) keeps it.",
                100 * milestone.sparsity,
                milestone.step,
                100 * start,
            )

    def _write(self) -> None:
        if not self._is_main:
            return
        lines = [json.dumps(encode(milestone)) + "\n" for milestone in self.reached]
        write_whole(self._path, "".join(lines))


def tell_again(milestones: Sequence[Milestone], tell: OnMilestone | None) -> None:
    """Call `tell` with the milestones of a run that is done."""
    for milestone in milestones:
        if tell is not None:
            tell(milestone)


def numbers_of(milestone: Milestone) -> dict[str, float]:
    """Return a milestone's figures by name, for trackers."""
    figures = {"held_out/sparsity": milestone.sparsity}
    for measure in milestone.data:
        figures[f"held_out/{measure.data}/sparsity"] = measure.sparsity
        figures[f"held_out/{measure.data}/perplexity"] = measure.perplexity
    return figures
