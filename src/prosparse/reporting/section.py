# SPDX-License-Identifier: Apache-2.0
"""One part of a report: all that the templates know of a page's content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prosparse.reporting.grids import Grid


@dataclass(frozen=True, slots=True)
class Word:
    """A piece of running text and how strongly something was there."""

    text: str
    strength: float = 0.0
    """In [-1, 1], 0 for nothing; its share of the strongest, with its sign."""
    value: str = ""
    """The number behind it."""
    is_peak: bool = False


@dataclass(frozen=True, slots=True)
class Passage:
    """Running text with some words shaded."""

    caption: str
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page."""

    title: str
    text: str = ""
    figure: str = ""
    """SVG text, made here and therefore safe."""
    grid: Grid | None = None
    verbatim: str = ""
    """Text shown as it is, line by line."""
    is_folded: bool = False
    """Shown only on a click."""
    alternative: str = ""
    """What the figure shows, in words; needed where no table of this section has its numbers."""
    passages: tuple[Passage, ...] = ()
    items: tuple[str, ...] = ()
    """Sentences of a list."""
