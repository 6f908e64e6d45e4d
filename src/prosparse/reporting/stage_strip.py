# SPDX-License-Identifier: Apache-2.0
"""The strip above a plot over steps: which stage of the schedule, and how many tokens so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prosparse.reporting.numerals import compact_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from prosparse.records.run import StageRecord

LETTER_WIDTH = 0.0125  # of a stage name in its normal size, as a share of the step axis
_BANDS = ("#DDE3E9", "#EEF1F4")


def draw_stages(
    strip: Axes,
    panels: tuple[Axes, ...],
    log: list[dict[str, Any]],
    stages: tuple[StageRecord, ...],
    color: str = "#9AA1A9",
) -> None:
    """Fill the strip with stage names and a token axis; draw the borders through the panels.

    Args:
        strip: Thin axes above the panels, with the same step axis.
        panels: Where a stage's border is drawn as a line.
        log: The run's log, for the tokens of a step.
        stages: The schedule as it was run.
        color: Of the borders.
    """
    # step s covers the interval (s - 1, s], so a stage's border is the end of the one before
    num_steps = max([1, *(s.last_step for s in stages), *(e["step"] for e in log)])
    strip.set_xlim(0, num_steps)
    strip.set_ylim(0, 1)
    strip.spines[:].set_visible(False)
    strip.tick_params(bottom=False, labelbottom=False, left=False, labelleft=False)
    for index, stage in enumerate(stages):
        start, end = stage.first_step - 1, stage.last_step
        strip.axvspan(start, end, color=_BANDS[index % 2], linewidth=0)
        letters = (end - start) / num_steps / LETTER_WIDTH
        strip.text(
            (start + end) / 2,
            0.5,
            stage.name if letters > 0.7 * len(stage.name) else stage.name.split()[-1],
            ha="center",
            va="center",
            fontsize=8.5 if letters > len(stage.name) else 6.0,
        )
        for panel in panels:
            if start > 0:
                panel.axvline(start, color=color, linewidth=0.9, linestyle=(0, (4, 3)))
    if log:
        # every step takes the same number of tokens, so the second axis is a fixed ratio
        ratio = log[-1]["tokens"] / log[-1]["step"]
        tokens = strip.secondary_xaxis("top", functions=(lambda s: s * ratio, lambda t: t / ratio))
        tokens.xaxis.set_major_formatter(lambda value, _: compact_count(value))
        tokens.set_xlabel("training tokens")
