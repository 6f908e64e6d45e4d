# SPDX-License-Identifier: Apache-2.0
"""The tables under `<!-- quantize: FOLDER -->` are those of the records.

To make one, print `tables(FOLDER)`.
"""

import re
from pathlib import Path

import pytest

from prosparse.records.files import read_record
from prosparse.reporting.quantization_sections import bits_grid, layers_grid, quality_grid
from prosparse.reporting.summary import headline
from prosparse.reporting.tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "quantize.md").read_text(encoding="utf-8")
FOLDERS = re.findall(r"<!-- quantize: (\S+) -->", PAGE)


def tables(folder: str) -> str:
    """Return the result in a sentence, perplexity, layers by bits, and those that stay."""
    record = read_record(ROOT / folder)
    grids = (quality_grid(record), bits_grid(record), layers_grid(record.held_in(None)))
    return "\n\n".join([headline(record), *(markdown_table(grid) for grid in grids if grid.rows)])


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_page_shows_what_was_recorded(folder):
    assert f"<!-- quantize: {folder} -->\n\n{tables(folder)}\n" in PAGE


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_budget_is_met(folder):
    assert read_record(ROOT / folder).is_within_budget
