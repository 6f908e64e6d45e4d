# SPDX-License-Identifier: Apache-2.0
"""The tables of the pages on predictors are those of the records.

A table stands under `<!-- predictor-fit: FOLDER ... -->`, `<!-- predictor-eval: FOLDER ... -->`,
`<!-- predicted-decode: FOLDER -->` or `<!-- powerinfer: FOLDER -->`. To make one, print `TABLES[kind](FOLDERS)`.
"""

import json
import re
from pathlib import Path

import pytest

from prosparse.records.files import read_record
from prosparse.reporting.grids import Grid
from prosparse.reporting.predictor_sections import eval_grid, fit_summary_grid
from prosparse.reporting.speed_grids import predicted_grid
from prosparse.reporting.tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
MARKER = re.compile(
    r"<!-- (predictor-fit|predictor-eval|predicted-decode|powerinfer): ([^>]+?) -->"
)
RESULTS = ROOT / "benchmarks/results"


def fit_table(folders: str) -> str:
    """Return what fits found, one a row."""
    return rows_of(folders, fit_summary_grid)


def eval_table(folders: str) -> str:
    """Return what evaluations say, one a row, in the shape of Table 2."""
    return rows_of(folders, eval_grid)


def rows_of(folders: str, grid_of) -> str:
    grids = [grid_of(read_record(RESULTS / folder)) for folder in folders.split()]
    rows = tuple(
        (folder, *grid.rows[0]) for folder, grid in zip(folders.split(), grids, strict=True)
    )
    return markdown_table(Grid(("record", *grids[0].header), rows))


def decode_table(folder: str) -> str:
    """Return dense, exact and predicted decode side by side."""
    return markdown_table(predicted_grid(read_record(RESULTS / folder)))


def powerinfer_table(folder: str) -> str:
    """Return the table of the page that the benchmark wrote."""
    page = (RESULTS / folder / "report.md").read_text(encoding="utf-8")
    return "\n".join(line for line in page.splitlines() if line.startswith("|"))


TABLES = {
    "predictor-fit": fit_table,
    "predictor-eval": eval_table,
    "predicted-decode": decode_table,
    "powerinfer": powerinfer_table,
}
FOUND = [
    pytest.param(page, kind, folders, id=f"{page.name}-{kind}")
    for page in PAGES
    for kind, folders in MARKER.findall(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "kind", "folders"), FOUND)
def test_tables_are_the_records(page, kind, folders):
    text = page.read_text(encoding="utf-8")
    table = TABLES[kind](folders)
    assert f"<!-- {kind}: {folders} -->\n\n{table.strip()}\n" in text


def test_the_page_on_the_engine_has_the_numbers_of_its_record():
    for path in RESULTS.glob("powerinfer*/numbers.json"):
        numbers = json.loads(path.read_text(encoding="utf-8"))
        page = path.with_name("report.md").read_text(encoding="utf-8")
        assert numbers["engine_commit"] in page
        for way in numbers["ways"]:
            if way["ms"] is not None:
                assert f"| {1e3 / way['ms']:.1f} |" in page
