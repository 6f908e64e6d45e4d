# SPDX-License-Identifier: Apache-2.0
"""The law of Figure 3: found again where it holds, with an interval that covers, refused elsewhere."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prosparse as ps
from prosparse.laws.lambda_law import fit, plan
from prosparse.records.files import read_record, write_record
from prosparse.records.law import LambdaLawRecord, LawPoint
from tests.laws.runs import FACTORS, PAPER, folders, make_record, points, sparsity_of


def test_the_papers_law_is_found_again():
    record = fit("model", points(), 0.85)
    assert (record.a, record.alpha, record.b) == pytest.approx(PAPER, rel=1e-4)
    assert sparsity_of(record.factor) == pytest.approx(0.85, abs=1e-9)
    assert record.r_squared == pytest.approx(1)
    assert record.factor_low == pytest.approx(record.factor, rel=1e-3)
    assert not record.is_extrapolated


@settings(deadline=None, max_examples=40)
@given(
    a=st.floats(-3, -0.8), alpha=st.floats(0.15, 0.8), b=st.floats(2.5, 4.2),
    where=st.floats(0.02, 0.4),
)  # fmt: skip
def test_any_law_of_this_form_is_inverted(a, alpha, b, where):
    law = (a, alpha, b)
    wanted = sparsity_of(where, *law)
    record = fit("model", points(law=law), wanted)
    assert record.factor == pytest.approx(where, rel=1e-2)
    assert record.predicted(record.factor) == pytest.approx(wanted, abs=1e-6)


def test_the_interval_covers_as_often_as_it_says():
    generator, wanted, covered, trials = np.random.default_rng(0), 0.85, 0, 200
    factors = np.geomspace(0.01, 0.5, 10)
    truth = fit("model", points(), wanted).factor
    for _ in range(trials):
        record = fit("model", points(factors, noise=generator.normal(0, 0.01, 10)), wanted)
        covered += record.factor_low <= truth <= record.factor_high
    assert 0.90 <= covered / trials <= 0.99


def test_three_runs_fix_the_law_and_leave_no_interval():
    record = fit("model", points(FACTORS[:3]), 0.75)
    assert sparsity_of(record.factor) == pytest.approx(0.75, abs=1e-6)
    assert record.factor_low is None
    assert record.factor_high is None


def test_beyond_the_runs_it_says_so():
    assert fit("model", points(), sparsity_of(1.5)).is_extrapolated
    assert fit("model", points(), sparsity_of(0.001)).is_extrapolated


@pytest.mark.parametrize(
    ("found", "wanted", "words"),
    [
        (points(FACTORS[:2]), 0.8, "needs three different last-stage lambdas; found 2"),
        (points((0.1, 0.1, 0.2)), 0.8, "found 2"),
        (points(), 0.5, "no lambda gives 50.00% sparsity; the least is 67.2"),
        ([LawPoint("r", f, 0.9 - f) for f in (0.01, 0.1, 0.2, 0.3)], 0.95, "go the other way"),
    ],
)  # fmt: skip
def test_refusals(found, wanted, words):
    with pytest.raises(ps.UserError, match=words):
        fit("model", found, wanted)


@pytest.fixture(scope="module")
def run_record(tmp_path_factory, checkpoint):
    """A train record of another test's kind, to be changed."""
    return make_record(str(checkpoint))


def test_from_folders_to_record_and_report(run_record, tmp_path):
    runs = folders(tmp_path, run_record, points())
    out = tmp_path / "plan"
    record = plan(reversed(runs), sparsity=0.85, out=out)
    assert [point.run for point in record.points] == [run.name for run in runs]
    assert read_record(out) == record
    assert isinstance(record, LambdaLawRecord)
    html = ps.report(out).read_text("utf-8")
    assert "For 85.0 % sparsity the last stage wants lambda" in html
    assert html.count("<svg") == 2
    with pytest.raises(ps.UserError, match="already exists"):
        plan(runs, sparsity=0.85, out=out)


def test_relu_alone_is_a_point_of_the_law(run_record, tmp_path):
    runs = folders(tmp_path, run_record, points((0.0, 0.05, 0.1, 0.5)))
    record = plan(runs, sparsity=0.85, out=tmp_path / "plan")
    assert (record.a, record.alpha, record.b) == pytest.approx(PAPER, rel=1e-3)
    assert record.points[0].factor == 0
    assert ps.report(tmp_path / "plan").read_text("utf-8").count("<svg") == 2


def test_runs_that_do_not_go_together(run_record, tmp_path):
    runs = folders(tmp_path, run_record, points()[:3])
    other = dataclasses.replace(run_record, model="another")
    runs += folders(tmp_path, other, [LawPoint("other", 0.3, 0.9)])
    with pytest.raises(ps.UserError, match=r"model is .* in .*run0 and another in .*other"):
        plan(runs, sparsity=0.85)


def test_runs_without_what_it_takes(run_record, tmp_path):
    silent = dataclasses.replace(run_record, milestones=())
    (tmp_path / "silent").mkdir()
    write_record(silent, tmp_path / "silent")
    with pytest.raises(ps.UserError, match="no measured sparsity"):
        plan([tmp_path / "silent"], sparsity=0.85)
    runs = folders(tmp_path, run_record, points()[:3])
    with pytest.raises(ps.UserError, match="between 0 and 1; found 89"):
        plan(runs, sparsity=89)
    with pytest.raises(ps.UserError, match="No run was named"):
        plan([], sparsity=0.85)
