# SPDX-License-Identifier: Apache-2.0
"""The tables under `<!-- measure-cost: FOLDER -->` are those that the benchmark wrote."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "measure.md").read_text(encoding="utf-8")
FOLDERS = re.findall(r"<!-- measure-cost: (\S+) -->", PAGE)


def test_a_gpu_and_a_cpu_are_shown():
    assert len(FOLDERS) == 2


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_page_shows_what_was_recorded(folder):
    report = (ROOT / "benchmarks/results" / folder / "report.md").read_text(encoding="utf-8")
    told = report.partition("\n\n")[2].strip()
    assert f"<!-- measure-cost: {folder} -->\n\n{told}\n" in PAGE
