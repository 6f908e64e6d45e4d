# SPDX-License-Identifier: Apache-2.0
"""The report on one run's folder, or on several side by side."""

from __future__ import annotations

from pathlib import Path

import prosparse.reporting.frontier_sections
import prosparse.reporting.law_fit_sections
import prosparse.reporting.law_sections
import prosparse.reporting.speed_sections
import prosparse.reporting.speed_summary
import prosparse.reporting.training_speed
import prosparse.reporting.training_step  # noqa: F401 - these teach ours about other records
from prosparse.records.files import LOG_NAME, Record, read_log, read_record
from prosparse.reporting.facts import reading_notes, run_facts
from prosparse.reporting.rendering import Page
from prosparse.reporting.sections import sections
from prosparse.reporting.summary import headline, tiles


def report(folder: str | Path) -> Path:
    """Write `report.html`, `report.md` and `report.json` into a run's output folder.

    Args:
        folder: Output folder of any verb, or the path of its `record.json`.

    Returns:
        The path of the HTML.

    Raises:
        UserError: The folder has no record, or matplotlib or jinja2 is not installed.

    Example:
        >>> import prosparse as ps
        >>> ps.report("runs/demo")
    """
    return run_page(Path(folder)).write(_without_record_name(Path(folder)))


def run_page(folder: Path) -> Page:
    """Return the report on a run's output folder.

    Args:
        folder: Has a `record.json` of any kind, and a `log.jsonl` where something was trained;
            or the path of that `record.json`.

    Raises:
        UserError: The folder has no record, or matplotlib is not installed.
    """
    record = read_record(folder)
    return Page(
        title=_short_name(record),
        kind=record.kind,
        headline=headline(record),
        tiles=tiles(record),
        sections=sections(record, read_log(_without_record_name(folder) / LOG_NAME)),
        facts=run_facts(record),
        notes=reading_notes(record),
    )


def render_report(folder: Path) -> tuple[str, str]:
    """Return the report on a run's output folder as (HTML, Markdown)."""
    page = run_page(folder)
    return page.html(), page.markdown()


def _without_record_name(folder: Path) -> Path:
    """Return the folder itself also when it was named by its record, as `read_record` allows."""
    return folder.parent if folder.suffix == ".json" else folder


def _short_name(record: Record) -> str:
    """Return the last two parts of the model's path or hub id."""
    parts = [part for part in record.model.split("/") if part]
    return "/".join(parts[-2:])
