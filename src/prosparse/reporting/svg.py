# SPDX-License-Identifier: Apache-2.0
"""From a matplotlib figure to SVG text that can stand inside a page.

The same record gives the same bytes: no date, ids from content hashes. Text stays text (it can
be searched and copied), and `$` in a name is a dollar sign, never mathematics.
"""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart under every common color vision deficiency.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#00795A"
GRAY = "#767676"
INK = "#24292F"

# What each color is on a dark page. The SVG stands inside the page and takes its color scheme.
_ON_DARK = {
    BLUE: "#5AAFE6",
    ORANGE: "#F08A45",
    GREEN: "#3DB68D",
    GRAY: "#9AA5B1",
    INK: "#E6EAEF",
    "#FFFFFF": "#181D24",  # the page's cards
    "#000000": "#E6EAEF",
    "#E3E6EA": "#2D353F",  # grids
    "#9AA1A9": "#6B7682",  # edges
    "#57606A": "#9AA5B1",  # ticks
    "#DDE3E9": "#2F3843",  # stages, every other
    "#EEF1F4": "#232A33",
    "#B9C0C7": "#56616D",  # single log lines
    "#7FB3D5": "#3D6F8E",  # error bars
    "#8C6D31": "#C9A55C",
    "#6A3D9A": "#B18BE0",
}

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    # matplotlib measures with the first; readers who lack it fall back to the likes of it
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.edgecolor": "#9AA1A9",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": "#E3E6EA",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": "#57606A",
    "ytick.color": "#57606A",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass
class Drawing:
    """A figure being drawn; `svg` is its text once the `drawing` block has ended."""

    figure: Figure
    svg: str = ""


@contextlib.contextmanager
def drawing(name: str, width: float, height: float) -> Iterator[Drawing]:
    """Yield a `Drawing` in the house style.

    Args:
        name: Salt of the ids inside, so that two plots of one page never share an id.
        width: In inches.
        height: In inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("Plots need matplotlib: pip install 'prosparse[report]'.") from None
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        plot = Drawing(Figure(figsize=(width, height), layout="constrained"))
        yield plot
        _settle_layout(plot.figure)
        stream = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        plot.figure.savefig(stream, format="svg", metadata=no_metadata)
    text = stream.getvalue()
    inline = text[text.index("<svg") :].strip()  # without XML prolog and doctype
    unnamed = re.sub(r'<g id="[^"]*"', "<g", inline)  # figure_1, axes_1: the same in every plot
    plot.svg = re.sub(r"((?<=fill: )|(?<=stroke: ))#[0-9a-f]{6}", _for_both_schemes, unnamed)


def _for_both_schemes(color: re.Match[str]) -> str:
    """Return a color of a style attribute for light and dark pages, as CSS."""
    dark = _ON_DARK.get(color[0].upper())
    return f"light-dark({color[0]}, {dark.lower()})" if dark else color[0]


def _settle_layout(figure: Figure) -> None:
    """Fix the axes where the layout engine puts them, to four digits.

    Its last digits depend on the order of a set, and with them the ids of clip paths.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        x, y, width, height = (round(edge, 4) for edge in axes.get_position(original=True).bounds)
        axes.set_position((x, y, width, height))
