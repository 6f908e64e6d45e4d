# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/thresholds.md are those of the records."""

import re
from pathlib import Path

import pytest

from prosparse.records.files import read_record
from prosparse.reporting.tables import markdown_table
from prosparse.reporting.threshold_sections import check_grid

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/thresholds.md").read_text(encoding="utf-8")
TABLES = re.findall(r"<!-- thresholds: (\S+) -->", PAGE)


def test_the_page_shows_a_measured_table():
    assert len(TABLES) == 1


@pytest.mark.parametrize("folder", TABLES)
def test_table_is_that_of_its_record(folder):
    table = markdown_table(check_grid(read_record(ROOT / folder)))
    assert f"<!-- thresholds: {folder} -->\n\n{table}" in PAGE


@pytest.mark.parametrize("folder", TABLES)
def test_a_threshold_for_each_layer_beats_the_single_t_within_the_budget(folder):
    record = read_record(ROOT / folder)
    chosen = {row.method: row for row in record.candidates if row.within_budget}
    checked = {row.method: row for row in record.check[1:]}
    assert chosen["per-layer"].sparsity > chosen["fixed"].sparsity
    assert checked["per-layer"].sparsity > checked["fixed"].sparsity
