# SPDX-License-Identifier: Apache-2.0
"""The speed tables of the README and of the pages are those of the records.

A table stands under `<!-- ops: FOLDER SHAPE -->`. To make one, print `table(FOLDER, SHAPE)`.
"""

import re
from pathlib import Path

import pytest

from prosparse.records.files import read_record
from prosparse.reporting.grids import Grid
from prosparse.reporting.speed_grids import ops_row
from prosparse.reporting.tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
MARKER = re.compile(r"<!-- ops: (\S+) (\S+) -->")
STEPS = {"up": "step (2)", "down": "step (3)", "ffn": "whole FFN"}
HEADER = ("step", "contender", "us", "x dense", "x compiled", "of the limit", "GB/s")
SPARSITY = 0.893


def table(folder: str, shape: str) -> str:
    """Return the Markdown of one token at the paper's sparsity, without the Triton fallback."""
    rows = [
        (STEPS[row.step], row.contender, *(ops_row(row)[i] for i in (5, 6, 7, 9, 11)))
        for row in read_record(ROOT / folder).rows
        if row.shape == shape
        and row.num_tokens == 1
        and (row.is_dense or abs(row.sparsity - SPARSITY) < 0.002)
        and "triton" not in row.contender
    ]
    order = list(STEPS.values())
    return markdown_table(Grid(HEADER, sorted(rows, key=lambda row: order.index(row[0]))))


def shown() -> list[tuple[Path, str, str]]:
    return [(page, *found) for page in PAGES for found in MARKER.findall(page.read_text("utf-8"))]


def test_there_are_speed_tables():
    assert len(shown()) >= 3


@pytest.mark.parametrize(("page", "folder", "shape"), shown())
def test_table_is_that_of_its_record(page, folder, shape):
    expected = f"<!-- ops: {folder} {shape} -->\n\n{table(folder, shape)}"
    assert expected in page.read_text("utf-8")
