# SPDX-License-Identifier: Apache-2.0
"""Any table as LaTeX, for papers: `booktabs` rules, words left and numbers right."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prosparse.reporting.grids import Grid, Row

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "→": r"$\rightarrow$",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}


def latex_table(grid: Grid, caption: str) -> str:
    """Return a grid as a `table` environment; it needs the package booktabs."""
    num_columns = len(grid.header)
    places = "l" * grid.num_text_columns + "r" * (num_columns - grid.num_text_columns)
    body = "\n".join(map(_row, grid.rows))
    return (
        f"\\begin{{table}}\n\\centering\n\\begin{{tabular}}{{{places}}}\n\\toprule\n"
        f"{_row(grid.header)}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
        f"\\caption{{{latex_text(caption)}}}\n\\end{{table}}\n"
    )


def latex_text(text: str) -> str:
    """Return `text` so that LaTeX shows it as it is."""
    return "".join(_SPECIAL.get(char, char) for char in text)


def _row(cells: Row) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"
