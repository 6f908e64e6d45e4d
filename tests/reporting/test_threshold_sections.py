# SPDX-License-Identifier: Apache-2.0
"""Thresholds by layer and method, and their check, on the page and in words."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ET

import pytest

from prosparse.records.files import read_record
from prosparse.records.threshold import LayerCost
from prosparse.reporting.grids import threshold_setting
from prosparse.reporting.page import render_report
from prosparse.reporting.summary import headline, tiles
from prosparse.reporting.threshold_sections import (
    check_grid,
    layer_costs_grid,
    layer_thresholds_grid,
    method_plot,
    threshold_outcome,
    threshold_sections,
)
from tests.reporting.conftest import NUM_LAYERS, candidate

BY_LAYER = tuple(0.01 + 0.001 * layer for layer in range(NUM_LAYERS))


def of_method(method, setting, sparsity, cost, thresholds=BY_LAYER):
    row = candidate(setting, sparsity, cost)
    return dataclasses.replace(row, method=method, layer_thresholds=thresholds)


@pytest.fixture
def record(threshold_record):
    """Three methods, the choice of `per-layer` over the budget on other text."""
    level = (0.02,) * NUM_LAYERS
    plain = of_method("fixed", 0.0, 0.8312, 0.0, (0.0,) * NUM_LAYERS)
    return dataclasses.replace(
        threshold_record,
        candidates=(
            plain,
            of_method("fixed", 0.02, 0.8443, 0.0097, level),
            of_method("per-layer", 0.009, 0.861, 0.0099),
            of_method("per-layer", 0.02, 0.88, 0.031),
            of_method("cett", 0.11, 0.852, 0.0098),
        ),
        chosen=0.009,
        method="per-layer",
        check=(
            plain,
            of_method("fixed", 0.02, 0.8413, 0.0094, level),
            of_method("per-layer", 0.009, 0.8588, 0.0104),
            of_method("cett", 0.11, 0.849, 0.0091),
        ),
        layer_costs=tuple(LayerCost(0.05, 0.3, 0.001 * i, 0.0002) for i in range(NUM_LAYERS)),
        notes=("A note <of> the search.",),
    )


def words(svg):
    return [e.text for e in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_page_has_methods_layers_costs_and_the_check(record, run_folder):
    html, markdown = render_report(run_folder(record))
    titles = [section.title for section in threshold_sections(record)]
    assert titles == [
        "Activation threshold shifting",
        "On text that nothing was chosen by",
        "Sparsity by layer, before and after shifting",
        "Thresholds by layer",
        "Thresholds by layer, in numbers",
        "What an error costs, by layer",
        "What an error costs, in numbers",
    ]
    for title in titles:
        assert title in html
    assert "## Thresholds by layer, in numbers" in markdown
    assert "A note &lt;of&gt; the search." in html
    assert "| **per-layer 0.9 %** | **86.10 %** | **+0.99" in markdown  # the check, marked
    assert html.count("<svg") == 4


def test_the_headline_says_whether_the_check_kept_the_budget(record):
    assert "with a threshold for each layer (per-layer)" in headline(record)
    assert re.search(
        r"On other text it is \+1\.04 ± .* %, which breaks the budget", headline(record)
    )
    kept = dataclasses.replace(record, chosen=0.11, method="cett")
    assert "which keeps the budget" in headline(kept)
    assert tiles(record)[0] == ("0.01 to 0.039", "thresholds t by layer, chosen")


def test_the_outcome_in_sentences(record):
    first, second, note = threshold_outcome(record)
    assert first.startswith("Applied t from 0.01 to 0.039 by layer (per-layer): sparsity 86.10 %")
    assert second.endswith("perplexity, over the budget.")
    assert note == record.notes[0]
    none = dataclasses.replace(record, chosen=0.0, notes=("Nothing was within.",))
    assert threshold_outcome(none) == ["Nothing was within."]


def test_tables_by_hand(record):
    grid = check_grid(record)
    assert [row[0] for row in grid.rows] == ["0.02", "per-layer 0.9 %", "cett 0.11"]
    assert [row[-1] for row in grid.rows] == ["within budget", "over budget", "within budget"]
    assert grid.marked == 1
    layers = layer_thresholds_grid([record.candidates[1], record.candidates[2]])
    assert layers.header[1:] == (
        "t, fixed",
        "sparsity, fixed",
        "t, per-layer",
        "sparsity, per-layer",
    )
    assert layers.rows[3][1::2] == ("0.02", "0.013")
    assert layer_costs_grid(record.layer_costs).rows[2] == (
        "2", "0.05", "0.3000", "+0.00200 ± 0.00020",
    )  # fmt: skip


def test_the_plot_has_a_line_for_each_method(record):
    labels = {
        "one t for all layers",
        "per layer, by cost",
        "per layer, equal error (CETT)",
        "budget",
    }
    assert labels <= set(words(method_plot(record)))
    assert method_plot(record) == method_plot(record)


def test_one_method_with_one_t_looks_as_it_did(threshold_record):
    titles = [section.title for section in threshold_sections(threshold_record)]
    assert titles == [
        "Activation threshold shifting",
        "Sparsity by layer, before and after shifting",
    ]


def test_settings_in_words():
    assert threshold_setting(of_method("fixed", 0.005, 0.8, 0.0)) == "0.005"
    assert threshold_setting(of_method("cett", 0.1234, 0.8, 0.0)) == "cett 0.123"


def test_records_of_before_still_read(record, threshold_record, run_folder):
    folder = run_folder(record)
    assert read_record(folder) == record
    path = folder / "record.json"
    run_folder(threshold_record)
    old = json.loads(path.read_text())
    for key in ("method", "check", "layer_costs", "notes"):
        old.pop(key)
    for row in old["candidates"]:
        del row["method"], row["layer_thresholds"]
    path.write_text(json.dumps(old))
    assert read_record(folder) == threshold_record
