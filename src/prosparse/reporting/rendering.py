# SPDX-License-Identifier: Apache-2.0
"""A page's content as HTML, as Markdown and as JSON.

The HTML loads nothing: no script, font or image from anywhere. Model paths, data names and
generated text are untrusted, so the template escapes everything but our own SVG.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosparse.errors import UserError
from prosparse.records.files import write_whole
from prosparse.reporting.tables import markdown_passage, markdown_table, markdown_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

    from prosparse.reporting.grids import Grid
    from prosparse.reporting.section import Section
    from prosparse.reporting.summary import Tile

HTML_NAME = "report.html"
MARKDOWN_NAME = "report.md"
JSON_NAME = "report.json"
LATEX_NAME = "tables.tex"


@dataclass(frozen=True, slots=True)
class Page:
    """All that a report says, in reading order."""

    title: str
    kind: str
    """Of the record, or `comparison`."""
    headline: str
    """The verdict, in words."""
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    facts: Grid
    """How it was run."""
    notes: Sequence[str]
    """How to read the numbers."""
    latex: str = ""
    """Its tables as LaTeX, for the kinds that go into papers."""

    def html(self) -> str:
        """Return one self-contained page.

        Raises:
            UserError: jinja2 is not installed.
        """
        return self._render("report.html.j2")

    def markdown(self) -> str:
        """Return the same without the figures.

        Raises:
            UserError: jinja2 is not installed.
        """
        return self._render("report.md.j2")

    def json(self) -> str:
        """Return the same, its tables as lists of rows, without the figures."""
        content = {
            "title": self.title,
            "kind": self.kind,
            "headline": self.headline,
            "tiles": [{"figure": figure, "caption": caption} for figure, caption in self.tiles],
            "sections": [_section_data(section) for section in self.sections],
            "facts": _table_data(self.facts),
            "notes": list(self.notes),
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> Path:
        """Write all that there is into a folder; return the HTML's path."""
        texts = {
            JSON_NAME: self.json(),
            MARKDOWN_NAME: self.markdown(),
            HTML_NAME: self.html(),
            **({LATEX_NAME: self.latex} if self.latex else {}),
        }
        for name, text in texts.items():
            write_whole(folder / name, text)
        return folder / HTML_NAME

    def _render(self, template: str) -> str:
        return (
            _environment()
            .get_template(template)
            .render(
                title=self.title,
                kind=self.kind,
                headline=self.headline,
                tiles=self.tiles,
                sections=self.sections,
                ids=section_ids([section.title for section in self.sections]),
                facts=self.facts,
                notes=self.notes,
            )
        )


def section_ids(titles: Sequence[str]) -> list[str]:
    """Return an address for each title, no two alike: `by-layer`, `by-layer-2`."""
    ids: list[str] = []
    for title in titles:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        num_before = sum(1 for id in ids if re.fullmatch(rf"{slug}(-\d+)?", id))
        ids.append(f"{slug}-{num_before + 1}" if num_before else slug)
    return ids


def svg_with_text(section: Section) -> str:
    """Return a section's SVG as one image with a text alternative, for who cannot see it."""
    where = "Its numbers are in the table of this section." if section.grid else ""
    words = html.escape(" ".join((f"{section.title}. {section.alternative}", where)).strip())
    return section.figure.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1)


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
    except ImportError:
        raise UserError("Reports need jinja2: pip install 'prosparse[report]'.") from None
    environment = Environment(
        loader=PackageLoader("prosparse.reporting"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        markdown=markdown_text,
        markdown_passage=markdown_passage,
        markdown_table=markdown_table,
        svg_with_text=svg_with_text,
    )
    return environment


def _section_data(section: Section) -> dict[str, Any]:
    data: dict[str, Any] = {"title": section.title}
    if section.text:
        data["text"] = section.text
    if section.items:
        data["items"] = list(section.items)
    if section.alternative:
        data["figure"] = section.alternative
    if section.grid is not None:
        data["table"] = _table_data(section.grid)
    if section.verbatim:
        data["verbatim"] = section.verbatim
    if section.passages:
        data["passages"] = [
            {"caption": passage.caption, "words": [[w.text, w.value] for w in passage.words]}
            for passage in section.passages
        ]
    return data


def _table_data(grid: Grid) -> dict[str, Any]:
    data: dict[str, Any] = {"header": list(grid.header), "rows": [list(row) for row in grid.rows]}
    if grid.marked is not None:
        data["marked_row"] = grid.marked
    if grid.best:
        data["best_cells"] = sorted(map(list, grid.best))
    return data
