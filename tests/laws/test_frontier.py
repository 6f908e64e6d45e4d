# SPDX-License-Identifier: Apache-2.0
"""Runs held against a control, from records made by hand."""

import dataclasses
import math

import pytest

import prosparse as ps
from prosparse.laws.frontier import frontier
from prosparse.model.device import provenance
from prosparse.records.files import read_record, write_record
from prosparse.records.frontier import FrontierRecord
from prosparse.records.run import Milestone, SparsifyRecord, TrainRecord
from prosparse.records.sparsity import Activation, DataMeasure
from prosparse.records.threshold import ThresholdCandidate, ThresholdRecord
from prosparse.reporting.frontier_sections import family, frontier_grid

MODEL = "some/model"
MADE = provenance("cpu")


def measures(perplexities, sparsity, num_tokens=640):
    return tuple(
        DataMeasure(name, f"{name}.jsonl", num_tokens, num_tokens - 10, math.log(ppl), 0.02, ppl,
                    0.02 * ppl, sparsity, (sparsity, sparsity))
        for name, ppl in zip(("wiki", "code"), perplexities, strict=True)
    )  # fmt: skip


def trained(perplexities, sparsity, factor=0.0, model=MODEL, activation="relu", **more):
    act = Activation(activation)
    data = measures(perplexities, sparsity, **more)
    last = Milestone("stage 2", act, 9, factor, 900, sparsity, (sparsity,) * 2, data)
    first = dataclasses.replace(last, label="original", step=0, sparsity=0.0)
    return TrainRecord(
        model, {"regularization": {}}, act, (), (first, last), 9, 900, 100, 1.0, 900.0,
        "float32", MADE,
    )  # fmt: skip


def sparsified(training, chosen, *candidates):
    found = tuple(
        ThresholdCandidate(t, sparsity, (sparsity,) * 2, measures(ppls, sparsity), 0.0, 0.0, True)
        for t, sparsity, ppls in candidates
    )
    shifts = ThresholdRecord(MODEL, 0.01, found, chosen, 64, "float32", 1.0, MADE)
    return SparsifyRecord(MODEL, training.milestones, training, shifts, None, 1.0, MADE)


@pytest.fixture
def write(tmp_path):
    def write(name, record):
        (tmp_path / name).mkdir()
        write_record(record, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def control(write):
    return write("dense", trained((10.0, 5.0), 0.0, activation="silu"))


@pytest.fixture
def runs(write):
    progressive = sparsified(
        trained((16.0, 5.0), 0.8, 3.0), 0.01,
        (0.0, 0.8, (16.0, 5.0)), (0.01, 0.85, (16.0, 5.2)), (0.1, 0.9, (40.0, 20.0)),
    )  # fmt: skip
    return [
        write("relu", trained((12.0, 6.0), 0.66)),
        write("fixed-l1-1", trained((13.0, 7.0), 0.7, 1.0)),
        write("fixed-l1-3", trained((20.0, 9.0), 0.8, 3.0)),
        write("prosparse-3", progressive),
    ]


def test_perplexity_is_relative_to_the_control_in_the_geometric_mean(runs, control):
    record = frontier(runs, relative_to=control)
    relu, *_ = record.points
    assert relu.ratios == pytest.approx((1.2, 1.2))
    assert relu.ratio == pytest.approx(1.2)
    before_shift = record.points[3]
    assert before_shift.ratio == pytest.approx(math.sqrt(1.6 * 1.0))  # not the mean, 1.3
    assert record.control.ratio == 1


def test_every_threshold_is_a_point_and_the_chosen_one_is_marked(runs, control):
    points = [p for p in frontier(runs, relative_to=control).points if p.run == "prosparse-3"]
    assert [(p.label, p.sparsity, p.is_chosen) for p in points] == [
        ("trained", 0.8, False),
        ("t = 0.01", 0.85, True),
        ("t = 0.1", 0.9, False),
    ]
    assert {p.factor for p in points} == {3.0}
    assert points[1].ratio == pytest.approx(math.sqrt(1.6 * 1.04))


def test_from_records_to_record_and_report(runs, control, tmp_path):
    record = frontier(runs, relative_to=control, out=tmp_path / "frontier")
    assert read_record(tmp_path / "frontier") == record
    assert isinstance(record, FrontierRecord)
    html = ps.report(tmp_path / "frontier").read_text("utf-8")
    assert "prosparse-3 (t = 0.01), has 85.0 % zeros at 1.290 times" in html
    assert html.count("<svg") == 1
    rows = {row[:2]: row for row in frontier_grid(record).rows}
    assert rows["dense", "trained"][2:] == (
        "0.00 %", "10.00 ± 0.20", "5.00 ± 0.10", "1.000x", "0", "900"
    )  # fmt: skip
    assert rows["prosparse-3", "t = 0.01, chosen"][-3] == "1.290x"
    with pytest.raises(ps.UserError, match="already exists"):
        frontier(runs, relative_to=control, out=tmp_path / "frontier")


def test_runs_that_cannot_be_compared(runs, control, write, tmp_path):
    other = write("other", trained((9.0, 9.0), 0.5, model="another"))
    with pytest.raises(
        ps.UserError, match=r"model is some/model in .*dense and another in .*other"
    ):
        frontier([*runs, other], relative_to=control)
    longer = write("longer", trained((9.0, 9.0), 0.5, num_tokens=1280))
    with pytest.raises(
        ps.UserError, match=r"other text than the control: 1280 tokens of wiki.*640"
    ):
        frontier([longer], relative_to=control)
    silent = write("silent", dataclasses.replace(trained((9.0, 9.0), 0.5), milestones=()))
    with pytest.raises(ps.UserError, match="silent has no measured perplexity"):
        frontier([silent], relative_to=control)
    with pytest.raises(ps.UserError, match="No run was named"):
        frontier([], relative_to=control)
    record = frontier(runs, relative_to=control)
    law = write("law", record)
    with pytest.raises(ps.UserError, match="is the result of frontier; give runs of train"):
        frontier([law], relative_to=control)


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("fixed-l1-3", "fixed-l1"),
        ("fixed-l1-0.3", "fixed-l1"),
        ("prosparse-1e-1", "prosparse"),
        ("prosparse-plus", "prosparse-plus"),
        ("7", "7"),
    ],
)
def test_runs_that_differ_in_a_number_are_a_family(run, name):
    assert family(run) == name
