# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from prosparse.errors import UserError
from prosparse.reporting.page import render_report, report, run_page
from prosparse.reporting.rendering import section_ids, svg_with_text
from prosparse.reporting.summary import headline
from prosparse.reporting.tables import markdown_text

KINDS = ["relufy", "train", "measure", "threshold", "sparsify"]
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Checks that tags close in order; collects text and what the page would load."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.loads, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self._see(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._see(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def _see(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href")]


def _read(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


@pytest.fixture
def rendered(request, run_folder, log):
    """Return a function: the report on the record of one kind."""

    def render(kind):
        has_log = kind in ("train", "sparsify")
        record = request.getfixturevalue(f"{kind}_record")
        return render_report(run_folder(record, log if has_log else ()))

    return render


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_record_makes_a_whole_page(rendered, kind):
    html, markdown = rendered(kind)
    reader = _read(html)

    assert "HuggingFaceTB/SmolLM2-135M" in reader.text
    assert {"model", "device", "NVIDIA H100 80GB HBM3"} <= set(reader.text)
    assert markdown.startswith("# HuggingFaceTB/SmolLM2-135M\n")


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_loads_nothing(rendered, kind):
    html, _ = rendered(kind)
    reader = _read(html)

    assert all(value.startswith(("#", "data:image/png;base64,")) for value in reader.loads)
    assert not reader.tags & {"script", "link", "iframe", "object", "embed"}
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []


def test_reports_are_deterministic(rendered):
    assert rendered("sparsify") == rendered("sparsify")


def test_the_page_of_a_line_has_all_its_parts(rendered, sparsify_record):
    html, markdown = rendered("sparsify")
    text = "\n".join(_read(html).text)

    for title in ("Milestones", "Training", "Schedule", "Activation threshold shifting", "Recipe"):
        assert title in text
        assert title in markdown
    assert html.count("<svg") == 4
    for milestone in sparsify_record.milestones:
        assert f"\n{milestone.label}\n" in text
        assert f"| {milestone.label} |" in markdown
    assert "Nobody had lit it in years." in text
    assert "     stood at the end of the pier.\n" in markdown
    assert "24,576 tokens of prose (/data/prose.jsonl)" in text


def test_untrusted_text_stays_text(run_folder, sparsify_record, log):
    evil = "<script>alert('x')</script>"
    milestone = dataclasses.replace(sparsify_record.milestones[0], label=evil)
    stage = dataclasses.replace(sparsify_record.training.stages[0], name=evil)
    training = dataclasses.replace(
        sparsify_record.training, recipe={"model": evil}, stages=(stage,)
    )
    record = dataclasses.replace(
        sparsify_record,
        model=evil,
        milestones=(milestone, *sparsify_record.milestones[1:]),
        training=training,
        sample=dataclasses.replace(sparsify_record.sample, prompt=evil, text=evil),
    )

    html, markdown = render_report(run_folder(record, log))

    assert "script" not in _read(html).tags
    outside_code = [line for line in markdown.splitlines() if not line.startswith("    ")]
    assert not any("<script>" in line for line in outside_code)


def test_headline_compares_the_last_milestone_with_the_first(sparsify_record):
    first, last = sparsify_record.milestones[0], sparsify_record.milestones[-1]
    changes = {
        m.data: m.perplexity / b.perplexity - 1 for m, b in zip(last.data, first.data, strict=True)
    }

    sentence = headline(sparsify_record)

    assert f"{100 * last.sparsity:.1f} % of the FFN activations are exactly zero" in sentence
    assert f"perplexity against “{first.label}”" in sentence
    for name, change in changes.items():
        assert f"{100 * change:+.2f} % on {name}" in sentence


def test_headline_of_a_broken_model_claims_no_number(sparsify_record):
    broken = dataclasses.replace(sparsify_record.milestones[-1].data[0], perplexity=math.inf)
    last = dataclasses.replace(sparsify_record.milestones[-1], data=(broken,))
    record = dataclasses.replace(sparsify_record, milestones=(sparsify_record.milestones[0], last))

    assert f"inf on {broken.data}" in headline(record)


def test_headline_of_a_threshold_search_names_cost_and_budget(threshold_record):
    sentence = headline(threshold_record)

    assert "t = 0.02" in sentence
    assert "from 83.1 % to 84.4 %" in sentence
    assert "+0.47 ± 0.08 % perplexity (budget 1.0 %)" in sentence


def test_a_search_that_found_nothing_says_so(run_folder, threshold_record):
    html, _ = render_report(run_folder(dataclasses.replace(threshold_record, chosen=0.0)))

    assert "the model keeps plain ReLU" in html


@pytest.mark.parametrize("num_milestones", [0, 1])
def test_training_without_measurements_is_reported(
    run_folder, train_record, milestones, num_milestones
):
    record = dataclasses.replace(train_record, milestones=milestones[:num_milestones])

    html, markdown = render_report(run_folder(record))

    _read(html)
    assert "1.97M tokens of training" in markdown


def test_a_line_without_sample_or_log_is_reported(run_folder, sparsify_record):
    html, _ = render_report(run_folder(dataclasses.replace(sparsify_record, sample=None)))

    assert "A sample of its text" not in html
    assert html.count("<svg") == 2


def test_report_writes_both_files_and_takes_the_records_path_too(run_folder, measure_record):
    folder = run_folder(measure_record)

    assert report(folder) == folder / "report.html"
    assert report(folder / "record.json") == folder / "report.html"
    assert (folder / "report.md").read_text(encoding="utf-8").startswith("# ")
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_without_record_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"record\.json"):
        report(tmp_path)


def test_without_jinja_the_message_says_what_to_install(monkeypatch, run_folder, measure_record):
    monkeypatch.setitem(sys.modules, "jinja2", None)

    with pytest.raises(UserError, match=r"prosparse\[report\]"):
        render_report(run_folder(measure_record))


RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize(
    "folder", sorted(path.parent.name for path in RESULTS.glob("*/record.json"))
)
def test_every_recorded_run_makes_a_page_whose_figures_are_told_in_words(folder):
    page = run_page(RESULTS / folder)

    _read(page.html())
    for section in page.sections:
        assert not section.figure or section.alternative or section.grid, section.title
        assert not section.figure or 'role="img" aria-label="' in svg_with_text(section)


def test_json_says_what_markdown_says(run_folder, sparsify_record, log):
    page = run_page(run_folder(sparsify_record, log))
    told = json.loads(page.json())

    assert told["headline"] == page.headline
    tables = {part["title"]: part["table"] for part in told["sections"] if "table" in part}
    assert tables["Activation threshold shifting"]["marked_row"] == 3
    for table in tables.values():
        for row in table["rows"]:
            assert all(markdown_text(cell) in page.markdown() for cell in row)


def test_sparsity_by_data_set_has_the_shape_of_table_8(run_folder, sparsify_record):
    page = run_page(run_folder(sparsify_record))
    (section,) = [part for part in page.sections if part.title == "Sparsity by data set"]

    assert section.grid.header == ("", "mixed", "prose", "code")
    assert section.grid.rows[-1] == ("threshold 0.02", "84.43 %", "84.43 %", "84.43 %")


def test_addresses_of_sections_are_unique():
    assert section_ids(["By layer", "by layer!", "Überblick", "—"]) == [
        "by-layer", "by-layer-2", "berblick", "section",
    ]  # fmt: skip
