# SPDX-License-Identifier: Apache-2.0
"""Metrics as a verdict, a table and a plot."""

import dataclasses
import math
import re
import xml.etree.ElementTree as ET

import pytest

from prosparse.reporting.metric_sections import metric_plot, metric_sections, point_grid
from prosparse.reporting.page import render_report
from prosparse.reporting.summary import headline, metric_verdict
from tests.reporting.distributions import metric, point

POINTS = (point("fat", 0.1), point("topk", 0.4, 0.3), point("cett", 0.2), point("cett", 0.4, 2.5))


@pytest.fixture
def record(measure_record):
    return dataclasses.replace(measure_record, metric=metric(), points=POINTS)


def test_a_record_without_a_metric_has_no_part_on_it(measure_record):
    assert metric_sections(measure_record) == []


def test_the_page_leads_with_the_verdict(record, run_folder):
    html, markdown = render_report(run_folder(record))
    verdict = (
        "With CETT = 0.2, 61.0 % of the FFN activations can be left out, at +0.90 ± 0.20 % "
        "perplexity (CETT-PPL-1%)."
    )
    assert headline(record) == verdict
    assert verdict in html
    assert "| **CETT = 0.2** | **61.00 %** | **39.00 %** | **17.40** |" in markdown
    assert "| 1 | 1.5 | 0.2000 | 62.00 % |" in markdown
    assert "4,096 calibration tokens" in markdown
    assert "Weak neurons were switched off by the metric" in markdown
    assert html.count("<svg") == 2  # and sparsity by layer


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (metric(budget=None), r"perplexity\.$"),
        (metric(point(setting=0.0), is_met=False), "No CETT stays within 1.0 % of perplexity"),
        (metric(is_met=False), "even so the budget of 1.0 % is not used up"),
        (metric(point("topk", 0.4), None), r"With top-k, k / d_ff = 0\.4, "),
    ],
)
def test_the_verdict_says_what_was_found(found, words):
    assert re.search(words, metric_verdict(found))


def test_the_plot_names_every_metric_within_its_axis():
    svg = metric_plot(POINTS)
    texts = [e.text for e in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"CETT", "top-k", "FAT-epsilon"} <= set(texts)
    assert metric_plot(POINTS) == svg


@pytest.mark.parametrize("increase", [math.nan, math.inf, 5.0])
def test_ruined_models_stand_in_the_table_alone(increase):
    ruined = [point(increase=increase, stderr=math.nan)]
    ET.fromstring(metric_plot(ruined))
    assert len(point_grid(ruined).rows) == 1
