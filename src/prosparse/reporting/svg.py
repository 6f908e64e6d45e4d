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
    "figure.facecolor": "white",
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
    plot.svg = re.sub(r'<g id="[^"]*"', "<g", inline)  # figure_1, axes_1: the same in every plot


def _settle_layout(figure: Figure) -> None:
    """Fix the axes where the layout engine puts them, to four digits.

    Its last digits depend on the order of a set, and with them the ids of clip paths.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        x, y, width, height = (round(edge, 4) for edge in axes.get_position(original=True).bounds)
        axes.set_position((x, y, width, height))
