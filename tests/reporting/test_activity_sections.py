# SPDX-License-Identifier: Apache-2.0
"""Distributions as tables and figures."""

import dataclasses
import math
import xml.etree.ElementTree as ET

import pytest

from prosparse.reporting.activity_plots import independent, layer_map
from prosparse.reporting.activity_sections import activity_sections, position_grid, union_grid
from prosparse.reporting.page import render_report
from tests.reporting.distributions import activity


@pytest.fixture
def record(measure_record):
    prose, code = measure_record.data
    return dataclasses.replace(
        measure_record,
        activity=activity(),
        data=(
            dataclasses.replace(prose, activity=activity(0.4)),
            dataclasses.replace(code, activity=activity(0.6)),
        ),
    )


def test_a_record_without_distributions_has_no_part_on_them(measure_record):
    assert activity_sections(measure_record) == []


def test_the_page_has_every_distribution(record, run_folder):
    html, markdown = render_report(run_folder(record))
    for title in (
        "How often each neuron is active", "Dead and always-on neurons",
        "How many neurons a token needs", "What several tokens need together",
        "By place in the window", "How large the non-zeros are",
    ):  # fmt: skip
        assert title in html
    assert "3 neurons are dead (under 0.1 %) and 2 always on (over 99.9 %)" in html
    assert html.count("<svg") == 6  # and sparsity by layer
    assert "| prose | tokens | 10.0 % |" in markdown


def test_the_same_record_makes_the_same_figures(record):
    figures = [part.figure for part in activity_sections(record) if part.figure]
    assert figures == [part.figure for part in activity_sections(record) if part.figure]
    ids = [e.get("id") for svg in figures for e in ET.fromstring(svg).iter() if e.get("id")]
    assert len(ids) == len(set(ids))


def test_sizes_without_enough_windows_are_left_blank():
    grid = union_grid((("prose", activity(0.4)),))
    assert grid.header[2:] == ("1", "2", "4", "8", "16", "32", "neighbors")
    assert grid.rows[0] == (
        "prose", "tokens", "10.0 %", "16.0 %", "22.0 %", "28.0 %", "34.0 %", "40.0 %", "30.0 %",
    )  # fmt: skip
    assert grid.rows[1][2:] == ("10.0 %", "16.0 %", "–", "–", "–", "–", "")


def test_places_are_named_from_one():
    grid = position_grid((("prose", activity()),))
    assert [row[0] for row in grid.rows] == ["1", "2", "3 to 4", "from 5"]
    assert [row[1] for row in grid.rows] == ["50.00 %", "40.00 %", "30.00 %", "20.00 %"]


def test_tokens_that_share_nothing_but_their_rate():
    assert independent(((0.5,), (0.1,)), (1, 2)) == pytest.approx([30.0, (75 + 19) / 2])


def test_a_layer_of_zeros_is_drawn():
    ET.fromstring(layer_map("zeros", ((0, 0), (1, 3)), ["0", "", "2"], "size", "non-zeros"))


def test_a_text_of_single_tokens_has_no_neighbors():
    (tokens, _) = union_grid((("x", activity(neighbor_jaccard=(math.nan, math.nan))),)).rows
    assert tokens[-1] == "nan %"
