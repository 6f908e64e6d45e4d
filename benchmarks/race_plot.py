# SPDX-License-Identifier: Apache-2.0
"""The race as bars: tokens/s of everybody, a panel for each precision.

python benchmarks/race_plot.py FOLDER   # reads its race.json, writes its plot.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from prosparse.reporting.svg import BLUE, GRAY, GREEN, ORANGE, drawing

COLORS = {"transformers": GRAY, "llama.cpp": BLUE, "ours, dense": GREEN, "ours, sparse": ORANGE}


def race_plot(results: list[dict[str, Any]]) -> str:
    """Return the bars as SVG text; the thin lines are the 10th and 90th percentile of a token's time.

    Args:
        results: Of the record of `race.py`.
    """
    widths = sorted({row["bits"] for row in results}, reverse=True)
    panels = [[row for row in results if row["bits"] == bits] for bits in widths]
    with drawing("race", 7.2, 0.5 + 0.3 * len(results) + 0.3 * len(panels)) as plot:
        heights = [len(rows) for rows in panels]
        found = plot.figure.subplots(len(panels), sharex=True, height_ratios=heights, squeeze=False)
        for axes, rows, bits in zip(found[:, 0], panels, widths, strict=True):
            for place, row in enumerate(rows):
                rate = 1e3 / row["ms"]
                slowest, fastest = 1e3 / row["ms_p90"], 1e3 / row["ms_p10"]
                color = next(c for name, c in COLORS.items() if row["name"].startswith(name))
                axes.barh(place, rate, color=color)
                axes.plot([slowest, fastest], [place, place], color="#000000", linewidth=0.9)
                axes.annotate(
                    f"{rate:.3g}",
                    (max(rate, fastest), place),
                    xytext=(5, 0),
                    textcoords="offset points",
                    va="center",
                )
            axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
            axes.invert_yaxis()
            axes.set_title(f"{bits} bits", loc="left")
            axes.margins(x=0.1)
            axes.grid(axis="x")
        found[-1, 0].set_xlabel("tokens/s")
    return plot.svg


def main() -> None:
    """Draw the plot of a record that is there."""
    folder = Path(sys.argv[1])
    record = json.loads((folder / "race.json").read_text(encoding="utf-8"))
    (folder / "plot.svg").write_text(race_plot(record["results"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
