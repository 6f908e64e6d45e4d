# SPDX-License-Identifier: Apache-2.0
"""The forward passes of one model over all data sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prosparse.measurement.perplexity import WindowMeasure, Windows, measure_windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from prosparse.measurement.activity import ActivityMeter


@dataclass(frozen=True, slots=True)
class Passes:
    """A model and what it runs on."""

    model: PreTrainedModel
    held_out: Sequence[Windows]
    precision: str
    """`float32` or `bfloat16`."""
    progress: bool = False
    """Show progress bars."""

    def run(self, label: str, meters: Sequence[ActivityMeter] = ()) -> list[WindowMeasure]:
        """Return losses and sparsity on each data set.

        Args:
            label: What the model runs as, for the progress bar.
            meters: Count the distributions, one meter for each data set; none when empty.
        """
        return [
            measure_windows(
                self.model,
                windows,
                precision=self.precision,
                progress=f"{label}{windows.name}" if self.progress else None,
                activity=meters[index] if meters else None,
            )
            for index, windows in enumerate(self.held_out)
        ]
