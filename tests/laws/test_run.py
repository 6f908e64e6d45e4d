# SPDX-License-Identifier: Apache-2.0
"""`fit` from folders and tables to records and reports, and what it refuses."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

import prosparse as ps
from prosparse.laws.forms import DATA_RELU
from prosparse.records.files import read_record, write_record
from prosparse.records.law import LawPoint
from prosparse.records.law_fit import LawsRecord
from prosparse.records.run import StageRecord
from tests.laws.runs import FACTORS, PAPER, folders, make_record, points

H100 = Path(__file__).parents[2] / "benchmarks/results/relufication_h100_2026-11-23"
TRUTH = np.array([np.log(0.3), np.log(0.5), -3.0, 0.07])
STEPS = range(10, 410, 10)  # a billion tokens in ten steps


def ratio(tokens):
    return float(DATA_RELU.curve(np.array([tokens / 1e9]), TRUTH)[0])


def write_run(folder, log=True, changing=False):
    """Write a run of two stages, its log by the law or its milestones."""
    folder.mkdir()
    record = make_record("model")
    (last,) = record.milestones
    milestones = tuple(
        dataclasses.replace(
            last, label=f"step {step}", step=step, factor=0.0, tokens_seen=step * 10**8,
            sparsity=1 - ratio(step * 10**8),
        )
        for step in STEPS
    )  # fmt: skip
    stages = (
        StageRecord("stage 0", 1, 400, 0.0, 0.0, 0.0, 40 * 10**9),
        StageRecord("stage 1", 401, 500, 0.5, 0.5, 0.5, 50 * 10**9),
    )
    write_record(
        dataclasses.replace(record, num_steps=400, stages=stages, milestones=milestones), folder
    )
    if log:
        lines = [
            {"step": s, "tokens": s * 10**8, "factor": 0.0, "sparsity": 1 - ratio((s - 5) * 10**8)}
            for s in STEPS
        ]
        if changing:
            lines.append({"step": 410, "tokens": 41 * 10**9, "factor": 0.5, "sparsity": 0.95})
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_table(path, rows, header="tokens,activation_ratio"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def values(fit):
    return [p.value for p in fit.parameters]


@pytest.mark.parametrize("log", [True, False])
def test_the_course_of_a_run_from_its_log_or_its_milestones(tmp_path, log):
    (fit,) = ps.fit([write_run(tmp_path / "run", log)]).fits
    assert values(fit) == pytest.approx([0.3, 0.5, -3.0, 0.07], rel=1e-3)
    assert fit.num_points == len(STEPS)
    assert fit.points[0].x == (0.5 if log else 1.0)  # a line of the log stands in its middle
    assert ("the log" if log else "the milestones") in fit.source


def test_lambda_must_not_change_among_the_points(tmp_path):
    run = write_run(tmp_path / "run", changing=True)
    record = read_record(run)
    write_record(dataclasses.replace(record, num_steps=500), run)
    with pytest.raises(ps.UserError, match=r"lambda changes .* \(here: stage 0, stage 1\)"):
        ps.fit([run])
    assert ps.fit([run], stage="stage 0").fits[0].num_points == len(STEPS)
    with pytest.raises(ps.UserError, match="no stage 'stage 9'; its stages are stage 0, stage 1"):
        ps.fit([run], stage="stage 9")


def test_record_and_report(tmp_path):
    out = tmp_path / "out"
    record = ps.fit([write_run(tmp_path / "run")], at=[20, 400], out=out)
    assert read_record(out) == record
    assert isinstance(record, LawsRecord)
    within, beyond = record.fits[0].predictions
    assert (within.is_extrapolated, beyond.is_extrapolated) == (False, True)
    assert beyond.activation_ratio == pytest.approx(ratio(400e9), rel=1e-3)
    curve = record.fits[0].curve
    assert [p.is_extrapolated for p in curve].count(True) > 5
    assert curve[-1].x == pytest.approx(2 * record.fits[0].points[-1].x)
    html = ps.report(out).read_text("utf-8")
    assert html.count("<svg") == 2  # the law and its residuals
    assert "extrapolation" in html
    assert "A0 is where the curve tends" in html
    with pytest.raises(ps.UserError, match="already exists"):
        ps.fit([tmp_path / "run"], out=out)


def test_a_report_without_points_has_no_residuals(tmp_path):
    record = ps.fit([write_run(tmp_path / "run")])
    bare = dataclasses.replace(
        record, fits=tuple(dataclasses.replace(fit, points=()) for fit in record.fits)
    )
    write_record(bare, tmp_path)
    assert ps.report(tmp_path).read_text("utf-8").count("<svg") == 1


def test_a_table_gives_what_the_run_gives(tmp_path):
    rows = [(s * 10**8, ratio(s * 10**8), 2) for s in STEPS]
    table = write_table(tmp_path / "a.csv", rows, "tokens,activation_ratio,weight")
    (fit,) = ps.fit([table]).fits
    assert values(fit) == pytest.approx([0.3, 0.5, -3.0, 0.07], rel=1e-3)
    assert (fit.name, fit.points[0].weight) == ("a", 2)
    assert ps.fit([table], least=5, most=30).fits[0].points[0].x == 5


def test_width_over_depth_from_checkpoints_and_tables(tmp_path):
    runs, rows = [], []
    for layers in (2, 4, 8, 16):
        run = write_run(tmp_path / f"{layers}")
        record = read_record(run)
        end = dataclasses.replace(record.milestones[-1], sparsity=0.9 - 0.01 * 64 / layers)
        write_record(dataclasses.replace(record, milestones=(end,), model=f"m{layers}"), run)
        config = {"hidden_size": 64, "num_hidden_layers": layers}
        (run / "config.json").write_text(json.dumps(config))
        runs.append(run)
        rows.append((64 / layers, 0.1 + 0.01 * 64 / layers))
    table = write_table(tmp_path / "t.csv", rows, "width_depth,activation_ratio")
    for source in (runs, [table]):
        (fit,) = ps.fit(source, law="width-depth").fits
        assert values(fit) == pytest.approx([0.01, 0.1])
    (runs[0] / "config.json").unlink()
    with pytest.raises(ps.UserError, match=r"no checkpoint .* columns width_depth"):
        ps.fit(runs, law="width-depth")


def test_the_law_of_lambda_is_that_of_plan(tmp_path):
    runs = folders(
        tmp_path, make_record("model"), points(noise=[1e-3, -1e-3, 2e-3, 0, 1e-3, -2e-3])
    )
    (fit,) = ps.fit(runs, law="lambda").fits
    planned = ps.plan(runs, sparsity=0.85)
    assert values(fit) == pytest.approx([planned.a, planned.alpha, planned.b])
    assert values(fit) == pytest.approx(PAPER, rel=0.1)
    assert fit.correlation is None  # runs of their own are independent
    with pytest.raises(ps.UserError, match="takes 4 different points or more.* found 3"):
        ps.fit(runs[:3], law="lambda")
    odd = folders(tmp_path, make_record("another"), [LawPoint("odd", FACTORS[0], 0.8)])
    with pytest.raises(ps.UserError, match="different models"):
        ps.fit([*runs, *odd], law="lambda")


def test_our_own_run_says_little_and_says_so():
    (fit,) = ps.fit([H100], stage="stage 0").fits
    assert fit.r_squared < 0.9
    assert any("of the variance" in note for note in fit.notes)
    assert any("residuals are alike" in note for note in fit.notes)
    with pytest.raises(ps.UserError, match="go the other way"):
        ps.fit([H100], stage="stage 0", least=0.003)
    (late,) = ps.fit([H100], stage="stage 5").fits
    assert late.notes[0].startswith("At the end of its range: alpha, A0.")
    assert late.r_squared == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ([(1, 0.3)] * 9, "tokens,activation_ratio", "takes 5 different points or more.* found 1"),
        ([(i, 0.3 - i / 99) for i in range(1, 5)], "tokens,activation_ratio", "found 4"),
        ([(i, 0.3) for i in range(1, 9)], "tokens,activation_ratio", "same at every point"),
        ([(i, i / 99) for i in range(1, 9)], "tokens,activation_ratio", "t: .*the other way"),
        ([(i, i) for i in range(1, 9)], "tokens,activation_ratio", r"within \(0, 1\)"),
        ([(i, "nan") for i in range(1, 9)], "tokens,activation_ratio", "found .* nan"),
        ([(0, 0.1)], "tokens,activation_ratio", "x must be above 0"),
        ([(1, "much")], "tokens,activation_ratio", "line 2, has something that is no number"),
        ([(1,)], "tokens,activation_ratio", "line 2, has something that is no number"),
        ([(1, 0.1)], "tokens,sparsity", "lacks the column activation_ratio"),
        ([], "tokens,activation_ratio", "found 0"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tmp_path, rows, header, words):
    with pytest.raises(ps.UserError, match=words):
        ps.fit([write_table(tmp_path / "t.csv", rows, header)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"law": "moore"}, "--law must be one of data-relu, data-silu, width-depth, lambda"),
        ({"confidence": 95}, "between 0 and 1; found 95"),
        ({"at": [-1]}, "--at must be above 0"),
        ({"law": "lambda", "stage": "stage 0"}, "--stage chooses a part of a run"),
        ({"least": 1e6}, "found 0"),
    ],
)
def test_options_that_are_refused(tmp_path, options, words):
    with pytest.raises(ps.UserError, match=re.escape(words)):
        ps.fit([write_run(tmp_path / "run")], **options)


def test_runs_that_are_none(tmp_path):
    with pytest.raises(ps.UserError, match="No run was named"):
        ps.fit([])
    with pytest.raises(ps.UserError, match=r"No record\.json"):
        ps.fit([tmp_path])
    with pytest.raises(ps.UserError, match="no table"):
        ps.fit([tmp_path / "none.csv"])
    (tmp_path / "image.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ps.UserError, match="no text in UTF-8"):
        ps.fit([tmp_path / "image.csv"])
    with pytest.raises(ps.UserError, match="tables have none"):
        ps.fit([tmp_path / "none.csv"], stage="stage 0")
