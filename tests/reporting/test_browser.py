# SPDX-License-Identifier: Apache-2.0
"""Reports as a real browser shows them: light and dark, on a desktop and on a phone."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from prosparse.records.files import LOG_NAME, write_record
from prosparse.reporting.page import report

pytest.importorskip("PySide6", reason="a browser: pip install 'prosparse[browser]'")
if importlib.util.find_spec("PySide6.QtWebEngineCore") is None:
    pytest.skip("a browser: pip install 'prosparse[browser]'", allow_module_level=True)

BROWSER = Path(__file__).with_name("browser.py")
LIGHT, DARK = "rgb(246, 247, 249)", "rgb(15, 19, 24)"


@pytest.fixture
def look(tmp_path):
    """Return a function: what a browser of one color scheme sees of a page, by screen."""

    def look(page, scheme="light"):
        done = subprocess.run(
            [sys.executable, str(BROWSER), scheme, str(page), str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return look


@pytest.fixture
def pages(request, run_folder, log):
    """Return a function: the page on the record of one kind."""

    def page(kind):
        record = request.getfixturevalue(f"{kind}_record")
        return report(run_folder(record, log if kind in ("train", "sparsify") else ()))

    return page


def check(seen, page):
    """Assert what must hold of every page on every screen."""
    assert seen["loaded"] == [True]
    assert seen["console"] == []
    assert seen["requests"] == [page.resolve().as_uri()]
    assert seen["scrollWidth"] <= seen["width"], seen["wide"]
    assert seen["wide"] == []
    assert seen["unnamed"] == 0
    assert seen["landmarks"] == [1, 1, 1]
    assert seen["headings"][0] == 1
    assert seen["headings"].count(1) == 1
    assert set(seen["headings"][1:]) == {2}
    assert seen["deadLinks"] == 0
    assert len(seen["ids"]) == len(set(seen["ids"]))


@pytest.mark.parametrize("kind", ["sparsify", "measure"])
def test_the_page_fits_and_loads_nothing(look, pages, kind):
    page = pages(kind)
    found = look(page)

    for seen in found.values():
        check(seen, page)
    assert found["phone"]["images"] >= 1


def test_a_comparison_fits_too(look, tmp_path, sparsify_record, measure_record, log):
    for name, record in (("a-long-name-of-a-run", sparsify_record), ("b", measure_record)):
        write_record(record, tmp_path / name)
        lines = "".join(json.dumps(entry) + "\n" for entry in log)
        (tmp_path / name / LOG_NAME).write_text(lines)
    page = report(tmp_path / "a-long-name-of-a-run", tmp_path / "b", out=tmp_path / "compared")

    for seen in look(page, "dark").values():
        check(seen, page)


def test_the_page_follows_the_system_and_its_own_switch(look, pages):
    page = pages("threshold")

    for scheme, background in (("light", LIGHT), ("dark", DARK)):
        seen = look(page, scheme)["desktop"]
        check(seen, page)
        assert seen["background"] == background
        assert seen["ink"] != background
        assert seen["switched"] == {"light": LIGHT, "dark": DARK}


def test_the_keyboard_reaches_the_contents_in_order(look, pages):
    stops = look(pages("sparsify"))["phone"]["stops"]

    assert [stop["name"] for stop in stops[:4]] == [
        "#content",
        "scheme-system",
        "#overview",
        "#milestones",
    ]
    assert [stop["within"] for stop in stops[1:3]] == ["HEADER", "NAV"]
    assert all(stop["visible"] and stop["outlined"] for stop in stops)
