# SPDX-License-Identifier: Apache-2.0
"""The figures of speed records: time against sparsity with the limit, against tokens, decode parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.reporting.plots import WIDTH
from prosparse.reporting.speed_grids import STEPS
from prosparse.reporting.svg import BLUE, GRAY, GREEN, INK, ORANGE, drawing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from prosparse.records.decode_speed import DecodeSpeedRecord
    from prosparse.records.speed import OpsRow

# The rest of Okabe and Ito's palette after the house colors.
COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#8C6D31", "#6A3D9A")
DENSE_COLORS = (GRAY, INK)
MASK_LINES = ("-", "--", ":")


def time_over_sparsity(rows: Sequence[OpsRow], name: str) -> str:
    """Return time against sparsity for rows of one shape, step and number of tokens.

    Dotted lines are what one launch that reads the same bytes costs; contenders that read alike
    share one.

    Args:
        rows: Right ones and wrong ones; a wrong one has no time and is left out.
        name: Salt of the ids inside.
    """
    timed = [row for row in rows if row.us is not None]
    with drawing(name, WIDTH, 4.2) as plot:
        axes = plot.figure.subplots()
        _dense_levels(axes, timed)
        sparse = [row for row in timed if not row.is_dense]
        limits: dict[tuple[float, ...], str] = {}
        masks = list(dict.fromkeys(row.mask for row in sparse))
        for color, contender in zip(COLORS * 3, _contenders(sparse), strict=False):
            for line, mask in zip(MASK_LINES * len(masks), masks, strict=False):
                own = _by_sparsity(sparse, contender, mask)
                if not own:
                    continue
                label = f"{contender}, {mask}" if len(masks) > 1 else contender
                x, y = ([100 * r.sparsity for r in own], [r.us or 0.0 for r in own])
                axes.plot(x, y, line, color=color, marker="o", markersize=4, label=label)
                limits.setdefault(tuple(round(r.mb, 2) for r in own), color)
                if mask == masks[0] and limits[tuple(round(r.mb, 2) for r in own)] == color:
                    axes.plot(x, [r.limit_us for r in own], ":", color=color, linewidth=1.2)
        axes.plot([], [], ":", color=INK, linewidth=1.2, label="limit: one launch reading as much")
        axes.set_xlabel("sparsity (%)")
        _finish(axes)
    return plot.svg


def time_over_tokens(rows: Sequence[OpsRow], name: str) -> str:
    """Return time against the number of tokens for rows of one shape and one step."""
    timed = [row for row in rows if row.us is not None]
    with drawing(name, WIDTH, 3.8) as plot:
        axes = plot.figure.subplots()
        for index, contender in enumerate(_contenders(timed)):
            own = sorted((r for r in timed if r.contender == contender), key=_num_tokens)
            dense = own[0].is_dense
            color = GRAY if dense else COLORS[index % len(COLORS)]
            x, y = [r.num_tokens for r in own], [r.us or 0.0 for r in own]
            axes.plot(
                x, y, "--" if dense else "-", color=color, marker="o", markersize=4, label=contender
            )
        axes.set_xscale("log", base=2)
        counts = sorted({row.num_tokens for row in timed})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlabel("tokens at once")
        _finish(axes)
    return plot.svg


def decode_parts(record: DecodeSpeedRecord) -> str:
    """Return milliseconds a token of every contender as bars, taken apart where that was done."""
    timed = [row for row in record.rows if row.ms is not None]
    with drawing("decode-parts", WIDTH, 0.9 + 0.42 * len(timed)) as plot:
        axes = plot.figure.subplots()
        parts = (("attention", BLUE), ("FFN", ORANGE), ("rest", GREEN), ("not taken apart", GRAY))
        for name, color in parts:
            axes.barh(0, 0, color=color, label=name)
        for place, row in enumerate(timed):
            whole = row.ms or 0.0
            left = 0.0
            if row.ffn_ms is None:
                axes.barh(place, whole, color=GRAY)
            else:
                widths = (row.attention_ms or 0.0, row.ffn_ms, row.rest_ms or 0.0)
                for width, (_, color) in zip(widths, parts, strict=False):
                    axes.barh(place, width, left=left, color=color)
                    left += width
            axes.annotate(
                f"{row.tokens_per_second:.1f} tokens/s",
                (whole, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(timed)), [row.contender for row in timed])
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds a token")
        axes.margins(x=0.16)
        axes.grid(axis="x")
        plot.figure.legend(loc="outside upper right", ncols=4)
    return plot.svg


def step_title(step: str) -> str:
    """Return a step in words, e.g. `Step 2 (up)`."""
    words = STEPS[step]
    return words[0].upper() + words[1:]


def _dense_levels(axes: Axes, rows: Sequence[OpsRow]) -> None:
    dense = [row for row in rows if row.is_dense]
    for color, row in zip(DENSE_COLORS * len(dense), dense, strict=False):
        axes.axhline(row.us or 0.0, color=color, linestyle="-.", linewidth=1.2, label=row.contender)


def _finish(axes: Axes) -> None:
    axes.set_ylabel("microseconds")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(loc="outside right upper", fontsize=8)  # type: ignore[union-attr]


def _contenders(rows: Sequence[OpsRow]) -> list[str]:
    return list(dict.fromkeys(row.contender for row in rows))


def _by_sparsity(rows: Sequence[OpsRow], contender: str, mask: str) -> list[OpsRow]:
    own = [row for row in rows if (row.contender, row.mask) == (contender, mask)]
    return sorted(own, key=lambda row: row.sparsity)


def _num_tokens(row: OpsRow) -> int:
    return row.num_tokens
