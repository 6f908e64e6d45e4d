# SPDX-License-Identifier: Apache-2.0
"""The report on one run's folder, or on several side by side."""

from __future__ import annotations

from pathlib import Path

import prosparse.reporting.evaluation_sections
import prosparse.reporting.export_sections
import prosparse.reporting.frontier_sections
import prosparse.reporting.inspection_sections
import prosparse.reporting.law_fit_sections
import prosparse.reporting.law_sections
import prosparse.reporting.predictor_sections
import prosparse.reporting.quantization_sections
import prosparse.reporting.speed_sections
import prosparse.reporting.speed_summary
import prosparse.reporting.training_speed
import prosparse.reporting.training_step  # noqa: F401 - these teach ours about other records
from prosparse.errors import UserError
from prosparse.records.evaluation import EvaluationRecord
from prosparse.records.files import (
    LOG_NAME,
    Record,
    read_log,
    read_record,
    refuse_existing,
    whole_folder,
)
from prosparse.reporting.comparison import comparison_page
from prosparse.reporting.evaluation_sections import latex_tables
from prosparse.reporting.facts import reading_notes, run_facts
from prosparse.reporting.rendering import Page
from prosparse.reporting.sections import sections
from prosparse.reporting.summary import headline, tiles


def report(*folders: str | Path, out: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write `report.html`, `report.md` and `report.json` on one run, or on several side by side.

    Of an evaluation `tables.tex` too, its tables as LaTeX.

    Args:
        folders: Output folders of any verb, or the paths of their `record.json`. Several must be
            of `measure`, `threshold`, `train` or `sparsify`; the others are held against the first.
        out: Folder for the report; needed with several runs. None is the run's own folder.
        overwrite: Replace `out` if it exists.

    Returns:
        The path of the HTML.

    Raises:
        UserError: A folder has no record or one that does not compare, several runs are given
            without `out`, it exists, or matplotlib or jinja2 is not installed.

    Example:
        >>> import prosparse as ps
        >>> ps.report("runs/demo")
        >>> ps.report("runs/a", "runs/b", out="runs/a-and-b")
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise UserError("No run to report on; give the output folder of a verb.")
    if out is None:
        if len(paths) > 1:
            raise UserError(f"{len(paths)} runs are compared in a folder of their own: give --out.")
        return run_page(paths[0]).write(_without_record_name(paths[0]))
    refuse_existing(Path(out), overwrite)
    page = run_page(paths[0]) if len(paths) == 1 else comparison_page(paths)
    with whole_folder(Path(out), overwrite) as unfinished:
        name = page.write(unfinished).name
    return Path(out) / name


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
        latex=latex_tables(record) if isinstance(record, EvaluationRecord) else "",
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
