# SPDX-License-Identifier: Apache-2.0
"""The parts of a report on distributions: neurons, tokens, places, unions, magnitudes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.records.activity import FREQUENCY_EDGES, GROUP_SIZES, TOKEN_BINS
from prosparse.reporting.activity_plots import (
    layer_map,
    mean_over_layers,
    position_curve,
    union_curves,
)
from prosparse.reporting.alternatives import histograms_in_words
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import percent
from prosparse.reporting.section import Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.activity import Activity
    from prosparse.records.sparsity import MeasureRecord
    from prosparse.reporting.activity_plots import Named


def activity_sections(record: MeasureRecord) -> list[Section]:
    """Return the parts on a record's distributions; none when it has none."""
    whole = record.activity
    if whole is None:
        return []
    named = tuple((m.data, m.activity) for m in record.data if m.activity is not None)
    return [
        *_neuron_sections(whole),
        Section(
            "How many neurons a token needs",
            "The share of its layer's neurons that a token activates, over all tokens of all data "
            "sets: a mean hides tokens that need far more.",
            layer_map(
                "token-histogram",
                whole.token_histogram,
                [f"{100 * i // TOKEN_BINS}" if i % 5 == 0 else "" for i in range(TOKEN_BINS + 1)],
                "active neurons (%)",
                "tokens",
            ),
            alternative=histograms_in_words(
                whole.token_histogram,
                [f"{100 * i // TOKEN_BINS} %" for i in range(TOKEN_BINS + 1)],
                "tokens",
            ),
        ),
        Section(
            "What several tokens need together",
            "Only a neuron that no token of a batch, or of a draft in speculative decoding, needs can "
            "be skipped. Mean over layers; dotted: if tokens had nothing in common. Neighbors: the "
            "mean Jaccard index of a token's active neurons and the next one's.",
            union_curves(named),
            union_grid(named),
        ),
        Section(
            "By place in the window",
            "Mean over layers. The first tokens of a window lack context.",
            position_curve(named),
            position_grid(named),
        ),
        _magnitude_section(whole),
    ]


def _neuron_sections(activity: Activity) -> list[Section]:
    text = (
        f"Each of a layer's {activity.d_ff:,} neurons by the share of {activity.num_tokens:,} tokens it "
        f"is active on; {sum(activity.dead):,} neurons are dead (under 0.1 %) and "
        f"{sum(activity.always_on):,} always on (over 99.9 %). Few tokens make neurons look dead."
    )
    ticks = [f"{100 * edge:g}" for edge in FREQUENCY_EDGES]
    axis = "tokens that a neuron is active on (%; bins are not equal)"
    figure = layer_map("neuron-histogram", activity.neuron_histogram, ticks, axis, "neurons")
    edges = [f"{edge} %" for edge in ticks]
    words = histograms_in_words(activity.neuron_histogram, edges, "neurons")
    return [
        Section("How often each neuron is active", text, figure, alternative=words),
        Section("Dead and always-on neurons", grid=neuron_grid(activity), is_folded=True),
    ]


def _magnitude_section(activity: Activity) -> Section:
    first, num_bins = activity.magnitude_first_exponent, len(activity.magnitude_histogram[0])
    step = -(-num_bins // 12)
    ticks = [f"2^{first + i}" if i % step == 0 else "" for i in range(num_bins + 1)]
    figure = layer_map(
        "magnitude-histogram", activity.magnitude_histogram, ticks, "|x_1|", "non-zeros"
    )
    edges = [f"2^{first + i}" for i in range(num_bins + 1)]
    words = histograms_in_words(activity.magnitude_histogram, edges, "non-zeros")
    text = "On places spread over the windows."
    return Section("How large the non-zeros are", text, figure, alternative=words)


def neuron_grid(activity: Activity) -> Grid:
    """Return dead and always-on neurons of each layer."""
    return Grid(
        ("layer", "dead", "share", "always on", "share"),
        tuple(
            (
                str(layer),
                f"{dead:,}",
                percent(dead / activity.d_ff),
                f"{on:,}",
                percent(on / activity.d_ff),
            )
            for layer, (dead, on) in enumerate(zip(activity.dead, activity.always_on, strict=True))
        ),
    )


def union_grid(named: Named) -> Grid:
    """Return the unions of each data set, mean over layers, and how alike neighbors are."""
    rows = []
    for name, activity in named:
        spans = _shares(activity.span_sizes, mean_over_layers(activity.span_union))
        batches = _shares(activity.batch_sizes, mean_over_layers(activity.batch_union))
        jaccard = sum(activity.neighbor_jaccard) / len(activity.neighbor_jaccard)
        rows += [(name, "tokens", *spans, percent(jaccard, 1)), (name, "windows", *batches, "")]
    header = ("data set", "of", *map(str, GROUP_SIZES), "neighbors")
    return Grid(header, tuple(rows), num_text_columns=2)


def position_grid(named: Named) -> Grid:
    """Return the active share in each bucket of places, mean over layers."""
    starts = named[0][1].position_starts
    places = [
        str(end) if end - start == 1 else f"{start + 1} to {end}"
        for start, end in zip(starts, starts[1:], strict=False)
    ]
    places.append(f"from {starts[-1] + 1}")
    columns = [mean_over_layers(activity.position_active) for _, activity in named]
    return Grid(
        ("place", *(name for name, _ in named)),
        tuple(
            (place, *(percent(share) for share in shares))
            for place, *shares in zip(places, *columns, strict=True)
        ),
    )


def _shares(sizes: Sequence[int], shares: Sequence[float]) -> list[str]:
    known = dict(zip(sizes, shares, strict=True))
    return [percent(known[size], 1) if size in known else "–" for size in GROUP_SIZES]
