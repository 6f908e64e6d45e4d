# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math

import pytest

from prosparse.records.decode_speed import DecodeRow, ExactnessCheck, TokenCheck
from prosparse.records.speed import LimitPoint, OpsRow, SpeedLimit

OPS = OpsRow(
    shape="llama2-7b",
    step="up",
    contender="sparse_up, cuda",
    is_dense=False,
    is_compiled=False,
    num_tokens=1,
    mask="random",
    sparsity=0.893,
    union=0.107,
    mb=9.65,
    us=6.825,
    us_p10=6.8,
    us_p90=6.9,
    error=2e-3,
    error_bound=5e-3,
    limit_us=5.46,
)
DECODE = DecodeRow(
    contender="sparse",
    is_dense=False,
    is_stock=False,
    check=TokenCheck(128, None, 0.0, 0.05),
    ms=4.0,
    ms_p10=3.9,
    ms_p90=4.1,
    mb=8000.0,
    attention_ms=1.0,
    rest_ms=0.5,
)


def test_a_row_says_bandwidth_and_share_of_the_limit():
    assert OPS.gb_per_second == pytest.approx(1413.9, abs=0.1)
    assert OPS.limit_share == pytest.approx(0.8)
    untimed = dataclasses.replace(OPS, us=None)
    assert (untimed.gb_per_second, untimed.limit_share) == (None, None)


@pytest.mark.parametrize("error", [6e-3, math.inf, math.nan])
def test_an_error_beyond_the_bound_is_wrong(error):
    assert not OPS.is_wrong
    assert dataclasses.replace(OPS, error=error).is_wrong


def test_the_limit_is_a_line():
    limit = SpeedLimit("reading", 2.35, 0.322, (LimitPoint(9.65, 5.46),))
    assert limit.us(9.65) == pytest.approx(5.457, abs=1e-3)


def test_what_is_neither_attention_nor_rest_is_ffn():
    assert DECODE.ffn_ms == pytest.approx(2.5)
    assert DECODE.tokens_per_second == pytest.approx(250)
    assert dataclasses.replace(DECODE, attention_ms=None).ffn_ms is None
    assert dataclasses.replace(DECODE, ms=None).tokens_per_second is None
    assert not DECODE.is_wrong
    assert dataclasses.replace(DECODE, ms=None).is_wrong


@pytest.mark.parametrize(("margin", "is_wrong"), [(0.0, False), (0.05, False), (0.06, True), (math.nan, True)])  # fmt: skip
def test_a_margin_beyond_rounding_is_wrong(margin, is_wrong):
    assert TokenCheck(128, 3, margin, 0.05).is_wrong is is_wrong


@pytest.mark.parametrize(
    ("fields", "is_wrong"),
    [
        ({}, False),
        ({"logit_difference": 0.25, "num_differing": 9, "farthest": 1.0}, False),
        ({"logit_difference": 0.26}, True),
        ({"logit_difference": math.nan}, True),
        ({"num_differing": 1, "farthest": 1.1}, True),
        ({"num_differing": 1, "farthest": math.nan}, True),
    ],
)
def test_exact_is_what_rounding_explains(fields, is_wrong):
    check = ExactnessCheck("sparse", 128, 0.11, 0.25, 1000, 0, 0.0)
    assert dataclasses.replace(check, **fields).is_wrong is is_wrong
