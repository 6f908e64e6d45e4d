# SPDX-License-Identifier: Apache-2.0
"""The page on single neurons; importing this makes `headline`, `tiles` and `sections` know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prosparse.records.activity import DEAD_BELOW
from prosparse.records.inspection import InspectionRecord, NeuronContext, NeuronInspection
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import compact_number, listing, percent
from prosparse.reporting.section import Passage, Section, Word
from prosparse.reporting.sections import sections
from prosparse.reporting.summary import Tile, headline, tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.inspection import TokenWeight

SHOWN_FROM = 0.05
"""Share of the peak from which a token is shaded: below it the eye could not tell."""


@headline.register
def _(record: InspectionRecord) -> str:
    often = [f"{_name(n)} on {percent(frequency(n))}" for n in record.neurons]
    num_tokens = sum(measure.num_tokens for measure in record.neurons[0].data)
    found = (
        f"Among {num_tokens:,} tokens there fire{'s' if len(often) == 1 else ''} {listing(often)}."
    )
    if all(frequency(neuron) == 1 for neuron in record.neurons):
        return (
            f"{found} In a model of {record.activation.name} nothing is exactly zero, so only how "
            "strongly a neuron fires tells tokens apart."
        )
    return found


@tiles.register
def _(record: InspectionRecord) -> list[Tile]:
    return [(percent(frequency(n)), f"of tokens fire {_name(n)}") for n in record.neurons[:4]]


@sections.register
def _(record: InspectionRecord, log: list[dict[str, Any]]) -> list[Section]:
    return [part for neuron in record.neurons for part in _neuron_sections(neuron)]


def frequency(neuron: NeuronInspection) -> float:
    """Return the share of all data sets' tokens on which a neuron fires, in [0, 1]."""
    total = sum(measure.num_tokens for measure in neuron.data)
    return sum(measure.frequency * measure.num_tokens for measure in neuron.data) / total


def frequency_grid(neuron: NeuronInspection) -> Grid:
    """Return how often and how strongly a neuron fires, by data set."""
    return Grid(
        ("data set", "fires on", "largest |x_1|", "tokens"),
        tuple(
            (m.data, percent(m.frequency), compact_number(m.largest), f"{m.num_tokens:,}")
            for m in neuron.data
        ),
    )


def passage(context: NeuronContext) -> Passage:
    """Return a context with every token shaded by how strongly the neuron fires on it."""
    peak = abs(context.values[context.peak])
    words = []
    for place, (token, value) in enumerate(zip(context.tokens, context.values, strict=True)):
        share = value / peak if peak else 0.0
        words.append(
            Word(
                text=_visible(token),
                strength=share if abs(share) >= SHOWN_FROM else 0.0,
                value=compact_number(value),
                is_peak=place == context.peak,
            )
        )
    caption = (
        f"x_1 = {compact_number(context.values[context.peak])}, {context.data}, "
        f"window {context.window + 1:,}, token {context.position + 1:,}"
    )
    return Passage(caption, tuple(words))


def written_grid(neuron: NeuronInspection) -> Grid:
    """Return the output tokens that a neuron makes more and less likely."""
    rows = zip(neuron.promotes, neuron.suppresses, strict=True)
    return Grid(
        ("raises", "lowers", "by", "by"),
        tuple(
            (_quoted(up), _quoted(down), f"{up.weight:+.3f}", f"{down.weight:+.3f}")
            for up, down in rows
        ),
        num_text_columns=2,
    )


def _neuron_sections(neuron: NeuronInspection) -> list[Section]:
    name = _name(neuron)
    found = [
        Section(
            f"{name[0].upper()}{name[1:]}", _frequency_text(neuron), grid=frequency_grid(neuron)
        )
    ]
    if neuron.contexts:
        text = (
            "The strongest token of a window is underlined; the stronger the shade, the larger |x_1|, "
            "relative to it. Orange is positive, blue negative. A causal model has not seen what "
            "follows a token."
        )
        passages = tuple(map(passage, neuron.contexts))
        found.append(Section(f"Where {name} fires most", text, passages=passages))
    if neuron.promotes:
        text = (
            "The column of down_proj times the output embedding: what the neuron alone adds to each "
            "token's logit for x_1 = 1, without the last norm and without what later layers make of "
            "it. Where x_1 is negative the two columns change places."
        )
        found.append(
            Section(f"What {name} writes", text, grid=written_grid(neuron), is_folded=True)
        )
    return found


def _frequency_text(neuron: NeuronInspection) -> str:
    share = frequency(neuron)
    if share == 0:
        return "It never fires on this text."
    if share < DEAD_BELOW:
        return "It counts as dead: it fires on under 0.1 % of the tokens."
    if share == 1:
        return "It is zero on no token."
    return "It fires where its entry of x_1, the input of down_proj, is not exactly zero."


def _name(neuron: NeuronInspection) -> str:
    return f"neuron {neuron.neuron} of layer {neuron.layer}"


def _visible(token: str) -> str:
    """Return a token's text with its line breaks shown: they would tear the context apart."""
    return token.replace("\r", "").replace("\n", "↵").replace("\t", "⇥")


def _quoted(written: TokenWeight) -> str:
    return f"“{_visible(written.token)}”"


def contexts_as_text(neuron: NeuronInspection, num_shown: int) -> Sequence[str]:
    """Return a line for a terminal for each of the first contexts, its peak between brackets."""
    lines = []
    for context in neuron.contexts[:num_shown]:
        tokens = [_visible(token) for token in context.tokens]
        tokens[context.peak] = f"[{tokens[context.peak]}]"
        value = compact_number(context.values[context.peak])
        lines.append(f"{value:>9}  {context.data}: {''.join(tokens)}")
    return lines
