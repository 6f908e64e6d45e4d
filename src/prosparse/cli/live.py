# SPDX-License-Identifier: Apache-2.0
"""Tables that grow on the terminal while progress bars run below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tqdm import tqdm

from prosparse.reporting.tables import MilestoneTable, ThresholdTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.run import Milestone
    from prosparse.records.threshold import ThresholdCandidate


def write(text: str) -> None:
    """Print a line above whatever progress bar is running."""
    tqdm.write(text)


class LiveTable:
    """Prints a header, then each milestone it is called with."""

    def __init__(self, data_names: Sequence[str]) -> None:
        self._table = MilestoneTable(data_names)
        self._has_header = False

    def __call__(self, milestone: Milestone) -> None:
        """Print one row."""
        if not self._has_header:
            write(self._table.header())
            self._has_header = True
        write(self._table.row(milestone))


class LiveThresholds:
    """Prints a header, then each threshold candidate it is called with."""

    def __init__(self, data_names: Sequence[str]) -> None:
        self._table = ThresholdTable(data_names)
        self._has_header = False

    def __call__(self, candidate: ThresholdCandidate) -> None:
        """Print one row."""
        if not self._has_header:
            write(self._table.header())
            self._has_header = True
        write(self._table.row(candidate))
