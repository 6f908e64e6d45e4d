# SPDX-License-Identifier: Apache-2.0
"""The README's numbers are those of the records."""

import re
from pathlib import Path

import pytest

from prosparse.records.files import read_record
from prosparse.reporting.tables import markdown_milestones

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = re.findall(r"<!-- table: (\S+) -->", README)


def test_readme_shows_measured_tables():
    assert len(TABLES) == 2


@pytest.mark.parametrize("folder", TABLES)
def test_table_is_that_of_its_record(folder):
    record = read_record(ROOT / folder)
    assert f"<!-- table: {folder} -->\n\n{markdown_milestones(record.milestones)}" in README


@pytest.mark.parametrize("recipe", re.findall(r"recipes/[\w/.-]+\.yaml", README))
def test_recipes_named_in_the_readme_exist(recipe):
    assert (ROOT / recipe).is_file()
