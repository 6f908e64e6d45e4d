# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math
import sys
import xml.etree.ElementTree as ET

import pytest

from prosparse.errors import UserError
from prosparse.reporting import plots


def _texts(svg):
    root = ET.fromstring(svg)
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture
def drawn(log, stages, threshold_record):
    """Return a function that draws all plots anew."""
    before = threshold_record.candidates[0].layer_sparsity
    after = threshold_record.chosen_candidate.layer_sparsity
    return lambda: [
        plots.training_curve(log, stages),
        plots.sparsity_heatmap(log, stages),
        plots.layer_sparsity(before, after, ("ReLU", "FATReLU")),
        plots.threshold_tradeoff(threshold_record),
    ]


def test_plots_are_deterministic(drawn):
    assert drawn() == drawn()


def test_plots_can_stand_inside_one_page(drawn):
    svgs = drawn()
    ids = [e.get("id") for svg in svgs for e in ET.fromstring(svg).iter() if e.get("id")]

    assert all(svg.startswith("<svg") and svg.endswith("</svg>") for svg in svgs)
    assert len(ids) == len(set(ids))


def test_curve_and_heat_map_name_the_stages_and_axes(log, stages):
    for svg in (plots.training_curve(log, stages), plots.sparsity_heatmap(log, stages)):
        texts = _texts(svg)
        assert {stage.name for stage in stages} <= set(texts)
        assert {"optimizer step", "training tokens"} <= set(texts)


def test_the_curve_of_a_steered_run_shows_its_target(log, stages):
    assert not any("target" in text for text in _texts(plots.training_curve(log, stages)))
    for entry in log:
        entry.update(target_sparsity=0.89, estimated_sparsity=entry["sparsity"] + 0.004)
    texts = _texts(plots.training_curve(log, stages))
    assert {"target 89.0 %", "held out, estimated"} <= set(texts)


def test_a_name_that_does_not_fit_its_band_keeps_its_last_word(log, stages):
    short = dataclasses.replace(stages[-1], name="stage 5", first_step=120)
    texts = _texts(plots.training_curve(log, (*stages[:-1], short)))

    assert "5" in texts
    assert "stage 5" not in texts


def test_names_are_never_read_as_mathematics_or_markup(log, stages):
    wild = dataclasses.replace(stages[0], name="$\\frac{<b>$")

    assert "$\\frac{<b>$" in _texts(plots.training_curve(log, (wild, *stages[1:])))


@pytest.mark.parametrize("num_lines", [0, 1, 2, 3])
@pytest.mark.parametrize("num_stages", [0, 1, 5])
def test_short_logs_are_drawn(log, stages, num_lines, num_stages):
    ET.fromstring(plots.training_curve(log[:num_lines], stages[:num_stages]))
    ET.fromstring(plots.sparsity_heatmap(log[:num_lines], stages[:num_stages]))


@pytest.mark.parametrize("broken", [math.nan, "nan", math.inf])
def test_a_diverged_run_is_drawn(log, stages, broken):
    log[60]["loss"] = broken

    ET.fromstring(plots.training_curve(log, stages))


def test_layer_chart_names_its_lines_with_their_means():
    texts = _texts(plots.layer_sparsity([0.5, 0.7], [0.6, 0.8], ("ReLU", "FATReLU")))

    assert {"ReLU (mean 60.0 %)", "FATReLU (mean 70.0 %)"} <= set(texts)


def test_layer_chart_of_a_single_line():
    texts = _texts(plots.layer_sparsity([0.5, 0.7], labels=("all data",)))

    assert "all data (mean 60.0 %)" in texts


@pytest.mark.parametrize(("share", "start"), [(1e-8, "0.0"), (1 - 1e-8, "99.0")])
def test_layers_that_hardly_differ_are_no_curve(share, start):
    texts = _texts(plots.layer_sparsity([share, share / 2 if share < 0.5 else 1.0], labels=("x",)))

    assert start in texts
    assert not any("e\N{MINUS SIGN}" in text for text in texts)


def test_tradeoff_names_every_threshold_and_the_budget(threshold_record):
    texts = _texts(plots.threshold_tradeoff(threshold_record))

    assert {"t = 0", "t = 0.005", "t = 0.01", "t = 0.02, chosen", "t = 0.03"} <= set(texts)
    assert "budget 1 %" in texts
    assert "+53.00 %" in texts  # beyond the axis, so in words


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_tradeoff_with_numbers_that_are_not_finite(threshold_record, value):
    last = dataclasses.replace(
        threshold_record.candidates[-1], perplexity_increase=value, perplexity_increase_stderr=value
    )
    record = dataclasses.replace(
        threshold_record, candidates=(*threshold_record.candidates[:-1], last)
    )

    assert str(value) in _texts(plots.threshold_tradeoff(record))


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(UserError, match=r"prosparse\[report\]"):
        plots.layer_sparsity([0.5])
