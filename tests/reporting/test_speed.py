# SPDX-License-Identifier: Apache-2.0
"""Speed records as tables, plots, sentences and pages."""

import dataclasses
import xml.etree.ElementTree as ET

import pytest

from prosparse.records.decode_speed import DecodeRow, DecodeSpeedRecord, ExactnessCheck, TokenCheck
from prosparse.records.speed import (
    BenchedShape,
    LimitPoint,
    NotRun,
    OpsRow,
    OpsSpeedRecord,
    SpeedLimit,
)
from prosparse.reporting.page import render_report
from prosparse.reporting.speed_exactness import exactness_grid, exactness_text
from prosparse.reporting.speed_grids import (
    DECODE_HEADER,
    DECODE_WIDTHS,
    OPS_HEADER,
    OPS_WIDTHS,
    check_text,
    decode_grid,
    ops_row,
)
from prosparse.reporting.speed_plots import decode_parts, time_over_sparsity, time_over_tokens
from prosparse.reporting.summary import headline, tiles
from tests.reporting.conftest import PROVENANCE

LIMIT = SpeedLimit(
    "a kernel that reads", 2.35, 0.322, (LimitPoint(1.0, 2.7), LimitPoint(90.2, 31.0))
)
SHARES = (0.0, 0.5, 0.893)


def ops(step, contender, us, sparsity=0.893, mb=10.0, **fields):
    dense = "dense" in contender
    values = {
        "is_dense": dense,
        "is_compiled": "compile" in contender,
        "num_tokens": 1,
        "mask": "random",
        "union": 1 - sparsity,
        "us_p10": us and 0.99 * us,
        "us_p90": us and 1.02 * us,
        "error": 2.3e-3,
        "error_bound": 5e-3,
        "speedup": us and 109.0 / us,
        "speedup_compiled": us and 92.85 / us,
        **fields,
    }
    return OpsRow(
        shape="llama2-7b", step=step, contender=contender, sparsity=sparsity, mb=mb, us=us,
        limit_us=LIMIT.us(mb), **values,
    )  # fmt: skip


@pytest.fixture
def ops_record():
    rows = [
        ops("up", "cuBLAS, dense", 35.0, 0.0, 90.2),
        ops("ffn", "cuBLAS, dense", 109.0, 0.0, 270.5),
        ops("ffn", "torch.compile, dense", 92.85, 0.0, 270.5),
    ]
    for mask in ("random", "clustered"):
        for share in SHARES:
            active = (1 - share) * 90.2
            rows += [
                ops("up", "sparse_up, cuda", 3 + 0.33 * active, share, active, mask=mask),
                ops(
                    "ffn", "sparse_ffn, cuda", 34 + 0.7 * active, share, 90 + 2 * active, mask=mask
                ),
            ]
    rows += [
        ops("ffn", "sparse_ffn, cuda", 45.0 + count, num_tokens=count, union=0.2)
        for count in (2, 4)
    ]
    return OpsSpeedRecord(
        model="llama2-7b",
        shapes=(BenchedShape("llama2-7b", 4096, 11008, 32),),
        dtype="bfloat16",
        limit=LIMIT,
        rows=tuple(rows),
        not_run=(NotRun("backend triton", "no <triton> here"),),
        num_warmups=4,
        num_repeats=25,
        method="One CUDA graph.",
        clocks={"clocks.sm": "1980 MHz"},
        seconds=31.0,
        provenance=PROVENANCE,
    )


def decoding(contender, ms, mb, **fields):
    dense = "sparse" not in contender
    values = {"check": TokenCheck(128, None, 0.0, 0.05), "is_dense": dense, "is_stock": dense}
    apart = {"attention_ms": 1.5, "rest_ms": 0.5} if "our" in contender else {}
    return DecodeRow(
        contender=contender, ms=ms, ms_p10=ms and 0.98 * ms, ms_p90=ms and 1.03 * ms, mb=mb,
        speedup=ms and 5.0 / ms, **{**values, **apart, **fields},
    )  # fmt: skip


@pytest.fixture
def decode_record():
    return DecodeSpeedRecord(
        model="llama2-7b",
        is_random=True,
        num_layers=32,
        d_model=4096,
        d_ff=11008,
        dtype="bfloat16",
        prompt_tokens=32,
        new_tokens=128,
        asked_sparsity=0.893,
        sparsity=0.89,
        layer_sparsity=(0.89,) * 32,
        dense_mb=13200.0,
        ffn_mb=8650.0,
        limit=LIMIT,
        rows=(
            decoding("transformers generate", 25.0, 13200.0),
            decoding("dense, our loop", 5.0, 13200.0),
            decoding("sparse, our loop", 3.2, 8067.0),
        ),
        not_run=(),
        num_repeats=3,
        breakdown="By leaving parts out.",
        clocks={},
        seconds=120.0,
        provenance=PROVENANCE,
        exactness=(
            ExactnessCheck("sparse", 128, 0.06, 0.25, 44_736_512, 0, 0.0),
            ExactnessCheck("screened", 128, 0.11, 0.25, 44_736_512, 0, 0.0),
        ),
        bound_method="Twice what float32 gives.",
    )


def with_check(record, **fields):
    """The record with something else in its second check."""
    first, second = record.exactness
    return dataclasses.replace(record, exactness=(first, dataclasses.replace(second, **fields)))


def texts(svg):
    return [e.text for e in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_page_of_an_operator_benchmark(run_folder, ops_record):
    html, markdown = render_report(run_folder(ops_record))
    for part in ("Step 2 (up), llama2-7b", "Whole FFN, llama2-7b, by tokens", "Not run"):
        assert part in html
        assert part in markdown
    assert html.count("<svg") == 3
    assert "2.35 us + 0.3220 us/MB" in html
    assert "no &lt;triton&gt; here" in html
    assert "clocks.sm 1980 MHz" in markdown
    assert render_report(run_folder(ops_record)) == (html, markdown)


def test_the_page_of_a_decode_benchmark(run_folder, decode_record):
    html, markdown = render_report(run_folder(decode_record))
    assert html.count("<svg") == 1
    assert "By leaving parts out." in markdown
    assert "| **sparse, our loop** |" in markdown
    assert "| screened | 128 | 0.11 | 0.25 | 44,736,512 | 0 | 0 |" in markdown
    assert "Twice what float32 gives." in markdown


def test_quantized_weights_are_told(run_folder, decode_record):
    assert "random, those of" not in render_report(run_folder(decode_record))[1]
    quantized = dataclasses.replace(decode_record, weight_bits=4)
    assert "random, those of the FFNs in 4 bits" in render_report(run_folder(quantized))[1]


def test_a_record_without_an_exactness_check_has_no_table_of_it(run_folder, decode_record):
    _, markdown = render_report(run_folder(dataclasses.replace(decode_record, exactness=())))
    assert "## Tokens a second" in markdown
    assert "Exactness" not in markdown


def test_exactness_in_a_sentence(decode_record):
    assert exactness_text(decode_record) == (
        "Exact: 128 tokens, logits within 0.11 (0.25 allowed), 0 of 89.5M neurons on the other "
        "side of zero."
    )
    ties = with_check(decode_record, num_differing=3, farthest=0.2)
    assert exactness_text(ties).endswith(
        "3 of 89.5M neurons on the other side of zero (by float64 at most 0.2 of what rounding explains)."
    )
    assert exactness_text(dataclasses.replace(decode_record, exactness=())) == ""


def test_what_is_not_exact_is_named(decode_record):
    wrong = with_check(decode_record, logit_difference=3.0)
    assert exactness_text(wrong).startswith("NOT exact (screened): 128 tokens, logits within 3 (")
    assert [row[0] for row in exactness_grid(wrong).rows] == ["sparse", "screened: WRONG"]


def test_cells_of_a_right_and_a_wrong_row():
    right = dict(
        zip(OPS_HEADER, ops_row(ops("ffn", "sparse_ffn, cuda", 41.5, mb=109.5)), strict=True)
    )
    assert right["us"] == "41.50"
    assert right["p10 to p90"] == "41.09 to 42.33"
    assert right["x dense"] == "2.63x"
    assert right["sparsity"] == "89.3 %"
    assert right["of limit"] == "91 %"
    wrong = dict(zip(OPS_HEADER, ops_row(ops("ffn", "mine", None, error=0.3)), strict=True))
    assert wrong["us"] == "wrong"
    assert wrong["error"] == "3.0e-01"
    assert wrong["x dense"] == wrong["GB/s"] == wrong["of limit"] == "–"
    dense = dict(zip(OPS_HEADER, ops_row(ops("up", "cuBLAS, dense", 35.0)), strict=True))
    assert dense["mask"] == dense["sparsity"] == "–"


def test_widths_fit_the_headers():
    assert len(OPS_HEADER) == len(OPS_WIDTHS)
    assert len(DECODE_HEADER) == len(DECODE_WIDTHS)
    for titles, widths in ((OPS_HEADER, OPS_WIDTHS), (DECODE_HEADER, DECODE_WIDTHS)):
        assert all(len(title) <= width for title, width in zip(titles, widths, strict=True))


def test_checks_in_words():
    assert check_text(TokenCheck(128, None, 0.0, 0.05)) == "128 equal"
    tie, wrong = TokenCheck(128, 7, 0.02, 0.05), TokenCheck(128, 7, 0.9, 0.05)
    assert check_text(tie) == "7 of 128 equal, then a tie (0.02)"
    assert check_text(wrong) == "7 of 128 equal, then WRONG (0.9)"


def test_the_headline_of_operators_is_about_the_known_sparsity(ops_record):
    sentence = headline(ops_record)
    assert "At llama2-7b and 89.3 % sparsity the fastest sparse FFN (sparse_ffn, cuda) takes" in (
        sentence
    )
    assert "x over torch.compile" in sentence
    assert "WRONG" not in sentence
    wrong = ops("ffn", "mine", None, error=0.3)
    sentence = headline(dataclasses.replace(ops_record, rows=(*ops_record.rows, wrong)))
    assert "1 results were WRONG" in sentence
    assert headline(dataclasses.replace(ops_record, rows=())) == "No sparse FFN was timed."
    assert tiles(dataclasses.replace(ops_record, rows=()))


def test_the_headline_of_a_decode_says_what_sparsity_buys_and_why(decode_record):
    sentence = headline(decode_record)
    assert "Sparsity buys 1.56x on this machine: 312.5 tokens/s (sparse, our loop)" in sentence
    assert "against 200.0 of the fastest dense decode (dense, our loop)" in sentence
    assert "66 % of the bytes that a dense step reads are FFN" in sentence
    assert "reads 8.07 GB instead of 13.20 GB: at most 1.64x" in sentence
    assert "the FFN is 60 % of a dense step and attention 30 %" in sentence
    assert "would give 2.50x" in sentence


def test_a_decode_without_sparse_rows_claims_nothing(decode_record):
    wrong = decoding("sparse, our loop", None, 8067.0, check=TokenCheck(128, 3, 0.9, 0.05))
    record = dataclasses.replace(decode_record, rows=(*decode_record.rows[:2], wrong))
    assert "no sparse decode was timed" in headline(record)
    assert "WRONG, and so without a time: sparse, our loop" in headline(record)
    assert decode_grid(record).marked is None
    tiles(record)


def test_plots_name_contenders_masks_and_the_limit(ops_record):
    ffn = [row for row in ops_record.rows if row.step == "ffn"]
    names = texts(time_over_sparsity([row for row in ffn if row.num_tokens == 1], "a"))
    assert {"sparse_ffn, cuda, random", "sparse_ffn, cuda, clustered"} <= set(names)
    assert {"cuBLAS, dense", "torch.compile, dense", "sparsity (%)", "microseconds"} <= set(names)
    assert "limit: one launch reading as much" in names
    names = texts(time_over_tokens([row for row in ffn if row.mask == "random"], "b"))
    assert {"tokens at once", "2", "4"} <= set(names)


def test_wrong_rows_are_not_drawn(ops_record):
    assert "mine" not in texts(time_over_sparsity([ops("ffn", "mine", None)], "a"))
    ET.fromstring(time_over_sparsity([], "a"))
    ET.fromstring(time_over_tokens([], "b"))


def test_decode_bars_show_the_parts(decode_record):
    names = set(texts(decode_parts(decode_record)))
    assert {"attention", "FFN", "rest", "not taken apart", "312.5 tokens/s"} <= names


def test_a_decode_without_dense_rows_says_so(decode_record):
    sparse = [row for row in decode_record.rows if not row.is_dense]
    record = dataclasses.replace(decode_record, rows=tuple(sparse))
    assert "no dense decode was timed" in headline(record)
