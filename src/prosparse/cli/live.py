# SPDX-License-Identifier: Apache-2.0
"""Tables that grow on the terminal while progress bars run below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tqdm import tqdm

from prosparse.reporting.evaluation_grids import NONE, score_text
from prosparse.reporting.numerals import percent
from prosparse.reporting.speed_grids import (
    DECODE_HEADER,
    DECODE_WIDTHS,
    OPS_HEADER,
    OPS_WIDTHS,
    decode_row,
    ops_row,
)
from prosparse.reporting.tables import MilestoneTable, PlainTable, ThresholdTable
from prosparse.reporting.training_speed import HEADER, WIDTHS, train_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.decode_speed import DecodeRow
    from prosparse.records.evaluation import TaskScore
    from prosparse.records.run import Milestone
    from prosparse.records.speed import OpsRow
    from prosparse.records.threshold import ThresholdCandidate
    from prosparse.records.training_speed import TrainSpeedRow


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


class LiveOps:
    """Prints a header for each shape, then each row of an operator benchmark."""

    def __init__(self) -> None:
        self._table = PlainTable(OPS_HEADER, OPS_WIDTHS)
        self._shape = ""

    def __call__(self, row: OpsRow) -> None:
        """Print one row."""
        if row.shape != self._shape:
            self._shape = row.shape
            write(f"\n{row.shape}\n{self._table.header()}")
        write(self._table.row(ops_row(row)))


class LiveDecode:
    """Prints a header, then each row of a decode benchmark."""

    def __init__(self) -> None:
        self._table = PlainTable(DECODE_HEADER, DECODE_WIDTHS)
        self._has_header = False

    def __call__(self, row: DecodeRow) -> None:
        """Print one row."""
        if not self._has_header:
            write(self._table.header())
            self._has_header = True
        write(self._table.row(decode_row(row)))


class LiveTraining:
    """Prints a header, then each row of a training benchmark."""

    def __init__(self) -> None:
        self._table = PlainTable(HEADER, WIDTHS)
        self._has_header = False

    def __call__(self, row: TrainSpeedRow) -> None:
        """Print one row."""
        if not self._has_header:
            write(self._table.header())
            self._has_header = True
        write(self._table.row(train_row(row)))


class LiveScores:
    """Prints a header for each model, then each of its scores."""

    def __init__(self) -> None:
        self._table = PlainTable(("task", "items", "score", "sparsity"), (14, 7, 17, 9))
        self._model = ""

    def __call__(self, model: str, task: TaskScore) -> None:
        """Print one row."""
        if model != self._model:
            self._model = model
            write(f"\n{model}\n{self._table.header()}")
        share = NONE if task.sparsity is None else percent(task.sparsity)
        write(self._table.row((task.title, f"{task.num_items:,}", score_text(task), share)))
