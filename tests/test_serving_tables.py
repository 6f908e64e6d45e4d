# SPDX-License-Identifier: Apache-2.0
"""What stands under `<!-- serving: FOLDER -->` is what the benchmark wrote, and its record's numbers."""

import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"<!-- serving: (\S+) -->\n\n(.*?)\n\n(?=[^|*])", PAGE + "\n\nend", re.DOTALL)


@pytest.mark.parametrize(("folder", "shown"), SHOWN, ids=lambda value: Path(value).name[:40])
def test_the_page_shows_what_was_recorded(folder, shown):
    assert shown in (ROOT / folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", [folder for folder, _ in SHOWN])
def test_the_report_shows_the_medians_of_its_record(folder):
    report = (ROOT / folder / "report.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / folder / "serving.json").read_text(encoding="utf-8"))
    for times in record["speeds"].values():
        for count, each in times.items():
            row = next(line for line in report.splitlines() if line.startswith(f"| {count} |"))
            assert f" {statistics.median(each):.1f} " in row
    if "soak" in record:
        soak = record["soak"]
        assert f"{soak['requests']} requests" in report
        assert f"{len(soak['errors'])} errors" in report


def test_there_is_one():
    assert SHOWN
