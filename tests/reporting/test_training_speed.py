# SPDX-License-Identifier: Apache-2.0
"""A record of the cost of sparsity in training as tables, sentences and pages."""

import dataclasses
import math

import pytest

from prosparse.records.files import write_record
from prosparse.records.speed import LimitPoint, NotRun, SpeedLimit
from prosparse.records.training_speed import TrainSpeedRecord, TrainSpeedRow
from prosparse.reporting.page import render_report
from prosparse.reporting.summary import headline, tiles
from prosparse.reporting.training_speed import HEADER, WIDTHS, train_grid, train_row
from tests.reporting.conftest import PROVENANCE


def row(contender, ms, over, part="ffn", **fields):
    values = {
        "ms_p10": ms and 0.99 * ms,
        "ms_p90": ms and 1.02 * ms,
        "over_baseline_p10": over and over - 0.01,
        "over_baseline_p90": over and over + 0.01,
        "peak_gib": 1.9,
        "error": 2e-3,
        "error_bound": 5e-3,
        "l1_error": None,
        "count_error": None,
        "l1_bound": 1e-4,
        "count_bound": 0.0,
        "limit_ms": 0.9 if part == "elementwise" else None,
        **fields,
    }
    return TrainSpeedRow(part, contender, ms, over_baseline=over, **values)


BASE = row("SwiGLU, torch.compile", 20.0, 0.0)
FUSED = row(
    "ReGLU, L1 and count, fused, torch.compile", 20.2, 0.012, peak_gib=1.5, l1_error=1e-6,
    count_error=0.0,
)  # fmt: skip
RECORD = TrainSpeedRecord(
    model="llama2-7b",
    d_model=4096,
    d_ff=11008,
    num_tokens=16384,
    dtype="bfloat16",
    sparsity=0.5,
    baseline=BASE.contender,
    limit=SpeedLimit("a kernel that reads", 2.35, 0.322, (LimitPoint(1.0, 2.7),)),
    rows=(
        row("9 GEMMs and nothing else", 19.0, -0.05),
        BASE,
        row("ReGLU, L1 and count, fused, eager", 20.4, 0.02),
        FUSED,
        row("SwiGLU, torch.compile", 1.2, 0.0, "elementwise"),
    ),
    not_run=(NotRun("mine (ffn)", "failed with RuntimeError: no"),),
    num_warmups=5,
    num_repeats=40,
    method="In turns.",
    clocks={"clocks.sm": "1980 MHz"},
    seconds=60.0,
    provenance=PROVENANCE,
)


def test_a_row_is_as_wide_as_the_header():
    for found in RECORD.rows:
        cells = train_row(found)
        assert len(cells) == len(HEADER) == len(WIDTHS)
        assert all(len(cell) <= width for cell, width in zip(cells, WIDTHS, strict=True))
    cells = dict(zip(HEADER, train_row(FUSED), strict=True))
    assert cells["ms"] == "20.200"
    assert cells["over baseline"] == "+1.2 %"
    assert cells["peak GiB"] == "1.50"
    assert cells["L1 error"] == "1.0e-06"
    (alone,) = train_grid(RECORD, "elementwise").rows
    assert alone[train_grid(RECORD, "elementwise").header.index("of limit")] == "75 %"


@pytest.mark.parametrize(
    "fields", [{"error": 6e-3}, {"error": math.nan}, {"l1_error": 1e-3}, {"count_error": 1e-9}]
)
def test_any_error_beyond_its_bound_is_wrong(fields):
    wrong = dataclasses.replace(FUSED, **fields)
    assert wrong.is_wrong
    assert not FUSED.is_wrong
    assert train_row(wrong)[2] == "wrong"
    untimed = dataclasses.replace(wrong, ms=None, over_baseline=None)
    record = dataclasses.replace(RECORD, rows=(BASE, untimed))
    assert "WRONG" in headline(record)


def test_headline_and_tiles_are_of_the_fused_ffn_run_as_the_baseline():
    assert headline(RECORD) == (
        "ReGLU with the L1 norm and the count, fused, takes +1.2 % time over SwiGLU, torch.compile: "
        "20.20 ms and 20.00 ms for one FFN, forward and backward over 16,384 tokens, with peaks of "
        "1.50 GiB and 1.90 GiB."
    )
    assert tiles(RECORD)[0] == ("+1.2 %", "time over SwiGLU, torch.compile")
    assert tiles(RECORD)[2] == ("700 TFLOP/s", "9 GEMMs and nothing else")
    nothing = dataclasses.replace(RECORD, rows=())
    assert headline(nothing) == "The fused FFN and the baseline were not both timed."
    assert tiles(nothing) == []


def test_the_page_has_both_parts_and_says_how_it_was_timed(tmp_path):
    write_record(RECORD, tmp_path)
    html, markdown = render_report(tmp_path)
    for page in (html, markdown):
        assert "The elementwise part alone" in page
        assert "In turns." in page
        assert "16,384 tokens" in page
        assert "failed with RuntimeError: no" in page
