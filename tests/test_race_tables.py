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


def speedups(folders, ours):
    """Return how many times as fast as the faster llama.cpp ours is, at 16, 8 and 4 bits."""
    records = [json.loads((ROOT / folder / "race.json").read_text("utf-8")) for folder in folders]
    rows = [row for record in records for row in record["results"]]

    def ms(bits, name):
        return min(r["ms"] for r in rows if r["bits"] == bits and r["name"].startswith(name))

    return [ms(bits, "llama.cpp") / ms(bits, ours) for bits in (16, 8, 4)]


def test_the_speedups_over_llamacpp_are_those_of_the_records():
    page = " ".join((ROOT / "docs" / "cpu.md").read_text(encoding="utf-8").split())
    folders = [folder for shown, folder in SHOWN if shown.name == "cpu.md"]
    small = speedups(folders[:1], "ours, sparse")
    large = speedups(folders[1:4], "ours, sparse 89.3%")
    middle = speedups(folders[4:], "ours, sparse 89.3%")
    for found in (small, large, middle):
        assert (
            "{:.2f}, {:.2f} and {:.2f} times as fast as the faster llama.cpp".format(*found) in page
        )
    assert min(small) >= 1
    assert min(*large, *middle) >= 1.4
