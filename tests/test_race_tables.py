# SPDX-License-Identifier: Apache-2.0
"""The tables under `<!-- race: FOLDER -->` are those that the race wrote, and its records' numbers."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = [
    (page, folder)
    for page in PAGES
    for folder in re.findall(r"<!-- race: (\S+) -->", page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "folder"), SHOWN, ids=lambda value: Path(value).name)
def test_a_page_shows_what_was_recorded(page, folder, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from race import Result, table

    record = json.loads((ROOT / folder / "race.json").read_text(encoding="utf-8"))
    grid = table([Result(**row) for row in record["results"]], record["gb_per_s"])
    assert f"<!-- race: {folder} -->\n\n{grid}\n" in page.read_text(encoding="utf-8")
    assert grid in (ROOT / folder / "report.md").read_text(encoding="utf-8")
