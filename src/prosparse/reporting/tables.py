# SPDX-License-Identifier: Apache-2.0
"""Tables as text: row by row for a terminal while results come true, or whole as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.reporting.grids import (
    Grid,
    Row,
    layer_grid,
    measure_grid,
    milestone_grid,
    milestone_header,
    milestone_row,
    threshold_grid,
    threshold_header,
    threshold_row,
)
from prosparse.reporting.numerals import percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prosparse.records.run import Milestone
    from prosparse.records.sparsity import MeasureRecord
    from prosparse.records.threshold import ThresholdCandidate, ThresholdRecord
    from prosparse.reporting.section import Passage

PERPLEXITY_WIDTH = 17  # `1.2e+07 ± 3.4e+06`, the widest that `with_error` writes
BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


class MilestoneTable:
    """The demo's table, printed one row at a time.

    Args:
        data_names: Names of the measured data sets, in the order of `Milestone.data`.
    """

    def __init__(self, data_names: Sequence[str]):
        self._titles = milestone_header(data_names)
        self._widths = (24, 9, *(PERPLEXITY_WIDTH for _ in data_names), 9, 7)

    def header(self) -> str:
        """Return the column titles and a rule beneath them (two lines)."""
        return _ruled(_aligned(self._titles, self._widths))

    def row(self, milestone: Milestone) -> str:
        """Return one line, as wide as the header."""
        return _aligned(milestone_row(milestone), self._widths)


class ThresholdTable:
    """The trade-off of a threshold search, printed one candidate at a time.

    Args:
        data_names: Names of the measured data sets, in the order of `ThresholdCandidate.data`.
    """

    def __init__(self, data_names: Sequence[str]):
        self._titles = threshold_header(data_names)
        self._widths = (18, 9, *(PERPLEXITY_WIDTH for _ in data_names), 20, 13)

    def header(self) -> str:
        """Return the column titles and a rule beneath them (two lines)."""
        return _ruled(_aligned(self._titles, self._widths))

    def row(self, candidate: ThresholdCandidate) -> str:
        """Return one line, as wide as the header."""
        return _aligned(threshold_row(candidate), self._widths)


class PlainTable:
    """A table with fixed columns, printed one row at a time.

    Args:
        titles: Of the columns.
        widths: Of the columns, in characters.
    """

    def __init__(self, titles: Row, widths: Sequence[int]):
        self._titles, self._widths = titles, widths

    def header(self) -> str:
        """Return the column titles and a rule beneath them (two lines)."""
        return _ruled(_aligned(self._titles, self._widths))

    def row(self, cells: Row) -> str:
        """Return one line, as wide as the header."""
        return _aligned(cells, self._widths)


def layer_bars(layer_sparsity: Sequence[float]) -> str:
    """Return one line per layer, lowest first, with a bar whose full length is 100 %."""
    digits = len(str(len(layer_sparsity) - 1))
    return "\n".join(
        f"layer {layer:>{digits}}  {percent(share):>8}  {_bar(share)}"
        for layer, share in enumerate(layer_sparsity)
    )


def markdown_milestones(milestones: Sequence[Milestone]) -> str:
    """Return the milestones as a Markdown table."""
    return markdown_table(milestone_grid(milestones))


def markdown_thresholds(record: ThresholdRecord) -> str:
    """Return a threshold search as a Markdown table, the chosen row in bold."""
    return markdown_table(threshold_grid(record))


def markdown_measure(record: MeasureRecord) -> str:
    """Return two Markdown tables: sparsity and perplexity by data set, and sparsity by layer."""
    return f"{markdown_table(measure_grid(record))}\n\n{markdown_table(layer_grid(record))}"


def markdown_table(grid: Grid) -> str:
    """Return any grid as a Markdown table."""
    num_columns = len(grid.rows[0]) if grid.rows else len(grid.header)
    header = grid.header or ("",) * num_columns
    rule = tuple(
        ":---" if column < grid.num_text_columns else "---:" for column in range(num_columns)
    )
    lines = [_markdown_row(map(markdown_text, header)), _markdown_row(rule)]
    for index, row in enumerate(grid.rows):
        cells = list(map(markdown_text, row))
        for column, cell in enumerate(cells):
            if cell and (index == grid.marked or (index, column) in grid.best):
                cells[column] = f"**{cell}**"
        lines.append(_markdown_row(cells))
    return "\n".join(lines)


def markdown_text(text: str) -> str:
    """Return `text` so that Markdown shows it as it is: in one line, without markup or HTML."""
    return " ".join(_escaped(text).split())


def markdown_passage(passage: Passage) -> str:
    """Return running text in one line, its peaks in bold with their values behind them."""
    words = (
        f"**{markdown_text(word.text)}** ({word.value})" if word.is_peak else _escaped(word.text)
        for word in passage.words
    )
    return " ".join("".join(words).split())


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "\\`*[]<>|" else char for char in text)


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _aligned(cells: Row, widths: Sequence[int]) -> str:
    first, *others = (_cut(cell, width) for cell, width in zip(cells, widths, strict=True))
    right = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
    return "  ".join([f"{first:<{widths[0]}}", *right])


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _ruled(titles: str) -> str:
    return f"{titles}\n{'─' * len(titles)}"


def _bar(share: float) -> str:
    full, rest = divmod(round(share * BAR_WIDTH * 8), 8)
    return ("█" * full + _EIGHTHS[rest]).rstrip()
