# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math

import pytest

from prosparse.reporting.numerals import compact_count, duration, increase, listing, with_error
from prosparse.reporting.tables import (
    MilestoneTable,
    ThresholdTable,
    layer_bars,
    markdown_measure,
    markdown_milestones,
    markdown_text,
    markdown_thresholds,
)


def _cells(markdown_row):
    return [cell.strip() for cell in markdown_row.strip("|").split("|")]


def test_every_milestone_row_is_as_wide_as_the_header(milestones):
    table = MilestoneTable(["prose", "code"])
    lines = [*table.header().splitlines(), *(table.row(m) for m in milestones)]

    assert len({len(line) for line in lines}) == 1
    assert "ppl prose" in lines[0]
    assert "ppl code" in lines[0]


def test_a_milestone_row_shows_the_record(milestones):
    row = MilestoneTable(["prose", "code"]).row(milestones[-1])

    assert row.startswith("threshold 0.02 ")
    for shown in ("84.43 %", "17.38 ± 0.42", "6.05 ± 0.15", " 0.2 ", " 1.97M"):
        assert shown in row


@pytest.mark.parametrize("perplexity", [1.5, 23157.0, 1.2e7, 9.9e200, math.inf, math.nan])
@pytest.mark.parametrize("stderr", [0.4, 1900.0, 3.4e6, math.inf, math.nan])
def test_wild_perplexities_keep_the_columns(milestones, perplexity, stderr):
    measure = dataclasses.replace(
        milestones[0].data[0], perplexity=perplexity, perplexity_stderr=stderr
    )
    wild = dataclasses.replace(
        milestones[0], label="a label longer than its column is", data=(measure,)
    )
    table = MilestoneTable(["a data set with a very long name"])

    assert {len(line) for line in table.header().splitlines()} == {len(table.row(wild))}


def test_every_threshold_row_is_as_wide_as_the_header(threshold_record):
    table = ThresholdTable(["prose", "code"])
    lines = [*table.header().splitlines(), *(table.row(c) for c in threshold_record.candidates)]

    assert len({len(line) for line in lines}) == 1
    assert "+0.47 ± 0.08 %" in lines[5]
    assert lines[5].endswith("within budget")
    assert lines[-1].endswith("over budget")


@pytest.mark.parametrize(
    ("value", "stderr", "shown"),
    [
        (17.034, 0.412, "17.03 ± 0.41"),
        (23157.0, 1900.4, "23157 ± 1900"),
        (1.23e7, 3.4e6, "1.2e+07 ± 3.4e+06"),
        (17.034, math.nan, "17.03 ± n/a"),
        (math.inf, math.nan, "inf"),
        (math.nan, math.nan, "nan"),
    ],
)
def test_value_and_error_share_their_decimals(value, stderr, shown):
    assert with_error(value, stderr) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (12_345, "12.3k"),
        (999_499, "999k"),
        (999_950, "1M"),
        (1_048_576, "1.05M"),
        (34_600_000_000, "34.6B"),
        (2 * 10**12, "2T"),
    ],
)
def test_counts_have_three_digits(count, shown):
    assert compact_count(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(12.34, "12.3 s"), (59.97, "1 min 0 s"), (250.0, "4 min 10 s"), (11_520.0, "3 h 12 min")],
)
def test_durations_read_as_people_say_them(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("share", "stderr", "shown"),
    [
        (0.0071, 0.002, "+0.71 ± 0.20 %"),
        (-0.02, None, "-2.00 %"),
        (1358.8, 9.0, "+135880 ± 900 %"),
        (0.01, math.nan, "+1.00 ± n/a %"),
        (math.inf, math.nan, "inf"),
    ],
)
def test_increases_are_signed_percentages(share, stderr, shown):
    assert increase(share, stderr) == shown


def test_listing_joins_with_commas_and_one_and():
    assert [listing(list("abc"[:n])) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_layer_bars_grow_with_sparsity():
    lines = layer_bars([0.0, 0.5, 1.0]).splitlines()

    assert lines[0] == "layer 0    0.00 %  "
    assert lines[1].endswith("50.00 %  " + "█" * 20)
    assert lines[2].endswith("100.00 %  " + "█" * 40)


def test_layer_bars_align_from_ten_layers_on():
    lines = layer_bars([0.25] * 12).splitlines()

    assert lines[0].startswith("layer  0   25.00 %")
    assert len({len(line) for line in lines}) == 1


def test_markdown_has_every_milestone(milestones):
    _, rule, *rows = markdown_milestones(milestones).splitlines()

    assert [_cells(row)[0] for row in rows] == [m.label for m in milestones]
    assert [_cells(row)[1] for row in rows] == [f"{100 * m.sparsity:.2f} %" for m in milestones]
    assert _cells(rule) == [":---"] + ["---:"] * 5


def test_markdown_of_no_milestones_is_only_a_header():
    assert len(markdown_milestones(()).splitlines()) == 2


def test_markdown_thresholds_set_the_chosen_row_in_bold(threshold_record):
    rows = markdown_thresholds(threshold_record).splitlines()[2:]

    bold = [row for row in rows if "**" in row]
    assert len(rows) == len(threshold_record.candidates)
    assert [_cells(row)[0] for row in bold] == ["**0.02**"]
    assert _cells(bold[0])[-1] == "**chosen**"


def test_markdown_measure_has_data_sets_and_layers(measure_record):
    by_data, by_layer = markdown_measure(measure_record).split("\n\n")

    assert _cells(by_data.splitlines()[0]) == ["", "mixed", "prose", "code"]
    assert _cells(by_data.splitlines()[2]) == ["sparsity", "84.43 %", "83.21 %", "85.65 %"]
    assert _cells(by_data.splitlines()[3])[2:] == ["17.38 ± 0.42", "6.05 ± 0.15"]
    assert _cells(by_data.splitlines()[4]) == ["tokens", "49,152", "24,576", "24,576"]
    assert len(by_layer.splitlines()) == 2 + len(measure_record.layer_sparsity)


def test_markdown_text_is_inert():
    assert markdown_text("a|b\n<script> `x` *y* [z]") == r"a\|b \<script\> \`x\` \*y\* \[z\]"
