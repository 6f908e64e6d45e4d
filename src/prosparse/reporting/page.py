# SPDX-License-Identifier: Apache-2.0
"""One self-contained page, as HTML and as Markdown, from the records of a run folder.

The page loads nothing: no script, font or image from anywhere. Model paths, data names and
generated text are untrusted, so the HTML template escapes everything but our own SVG.
"""

from __future__ import annotations

from pathlib import Path

import prosparse.reporting.frontier_sections
import prosparse.reporting.law_fit_sections
import prosparse.reporting.law_sections
import prosparse.reporting.speed_sections
import prosparse.reporting.speed_summary
import prosparse.reporting.training_speed
import prosparse.reporting.training_step  # noqa: F401 - these teach ours about other records
from prosparse.errors import UserError
from prosparse.records.files import LOG_NAME, Record, read_log, read_record, write_whole
from prosparse.reporting.facts import reading_notes, run_facts
from prosparse.reporting.sections import sections
from prosparse.reporting.summary import headline, tiles
from prosparse.reporting.tables import markdown_table, markdown_text

HTML_NAME = "report.html"
MARKDOWN_NAME = "report.md"


def report(folder: str | Path) -> Path:
    """Write `report.html` and `report.md` into a run's output folder; return the HTML's path.

    Args:
        folder: Output folder of any verb, or the path of its `record.json`.

    Raises:
        UserError: The folder has no record, or matplotlib or jinja2 is not installed.

    Example:
        >>> import prosparse as ps
        >>> ps.report("runs/demo")
    """
    html, markdown = render_report(Path(folder))
    folder = _without_record_name(Path(folder))
    write_whole(folder / MARKDOWN_NAME, markdown)
    write_whole(folder / HTML_NAME, html)
    return folder / HTML_NAME


def render_report(folder: Path) -> tuple[str, str]:
    """Return the report on a run's output folder as (HTML, Markdown).

    Args:
        folder: Has a `record.json` of any kind, and a `log.jsonl` where something was trained;
            or the path of that `record.json`.

    Raises:
        UserError: The folder has no record, or matplotlib or jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
    except ImportError:
        raise UserError("Reports need jinja2: pip install 'prosparse[report]'.") from None
    record = read_record(folder)
    environment = Environment(
        loader=PackageLoader("prosparse.reporting"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(markdown=markdown_text, markdown_table=markdown_table)
    content = {
        "title": _short_name(record),
        "kind": record.kind,
        "headline": headline(record),
        "tiles": tiles(record),
        "sections": sections(record, read_log(_without_record_name(folder) / LOG_NAME)),
        "facts": run_facts(record),
        "notes": reading_notes(record),
    }
    html, markdown = (
        environment.get_template(f"report.{suffix}.j2").render(content) for suffix in ("html", "md")
    )
    return html, markdown


def _without_record_name(folder: Path) -> Path:
    """Return the folder itself also when it was named by its record, as `read_record` allows."""
    return folder.parent if folder.suffix == ".json" else folder


def _short_name(record: Record) -> str:
    """Return the last two parts of the model's path or hub id."""
    parts = [part for part in record.model.split("/") if part]
    return "/".join(parts[-2:])
