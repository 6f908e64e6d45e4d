# SPDX-License-Identifier: Apache-2.0
"""One part of a report: all that the templates know of a page's content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prosparse.reporting.grids import Grid


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
