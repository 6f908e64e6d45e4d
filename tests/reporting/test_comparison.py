# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import math

import pytest

from prosparse.errors import UserError
from prosparse.records.files import LOG_NAME, write_record
from prosparse.reporting.compared_runs import read_runs
from prosparse.reporting.comparison import comparison_page, overview_grid
from prosparse.reporting.comparison_words import differences, setting_grid, verdict, warnings
from prosparse.reporting.page import report


@pytest.fixture
def folder(tmp_path, log):
    """Return a function that writes a record as a run's folder of this name."""

    def write(name, record, has_log=False):
        write_record(record, tmp_path / name)
        if has_log:
            lines = "".join(json.dumps(entry) + "\n" for entry in log)
            (tmp_path / name / LOG_NAME).write_text(lines)
        return tmp_path / name

    return write


def with_perplexity(record, factor, **changes):
    """Return a measure record with every perplexity times a factor."""
    data = tuple(
        dataclasses.replace(m, loss=m.loss + math.log(factor), perplexity=m.perplexity * factor)
        for m in record.data
    )
    return dataclasses.replace(record, data=data, **changes)


def test_runs_alike_are_told_apart_by_their_numbers_alone(folder, measure_record):
    sparser = with_perplexity(measure_record, 1.5, sparsity=0.9)
    slightly = with_perplexity(measure_record, 1.01)
    runs = read_runs([folder("a", measure_record), folder("b", sparser), folder("c", slightly)])

    assert warnings(runs) == ()
    assert setting_grid(runs) is None
    assert verdict(runs) == (
        "Of 3 runs b is the sparsest: 90.0 % of its FFN activations are zero. The lowest perplexity "
        "has a on prose and code."
    )
    b, c = differences(runs)
    assert b.startswith("b against a: +5.57 points of sparsity (90.00 % against 84.43 %)")
    assert b.endswith("+50.00 % on prose and +50.00 % on code (beyond two standard errors).")
    assert c.endswith("+1.00 % on prose and +1.00 % on code (within two standard errors).")
    assert overview_grid(runs).best == {(1, 2), (0, 3), (0, 4)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"context_length": 1024}, "Windows of different length, so perplexities do not compare: "
                                   "512 in a and 1,024 in b."),
        ({"dtype": "bfloat16"}, "Forward passes in float32 in a and bfloat16 in b."),
    ],
)  # fmt: skip
def test_what_was_not_alike_is_named(folder, measure_record, changes, said):
    other = dataclasses.replace(measure_record, **changes)
    runs = read_runs([folder("a", measure_record), folder("b", other)])

    assert warnings(runs) == (said,)


def test_other_text_is_named_and_its_perplexity_not_compared(folder, measure_record):
    prose, code = measure_record.data
    shorter = dataclasses.replace(prose, num_tokens=512)
    other = dataclasses.replace(measure_record, data=(shorter,))
    elsewhere = dataclasses.replace(code, source="/other.jsonl")
    third = dataclasses.replace(measure_record, data=(prose, elsewhere))
    places = [folder("a", measure_record), folder("b", other), folder("c", third)]
    runs = read_runs(places)

    assert warnings(runs) == (
        "b was not measured on code.",
        "Tokens of “prose”: 24,576 in a and c and 512 in b.",
        "“code” was read from /data/code.jsonl in a and /other.jsonl in c.",
    )
    assert "do not compare" in verdict(runs)
    assert all(
        "perplexit" not in text or "do not compare" in text for text in differences(runs)[:1]
    )
    assert overview_grid(runs).best == {(0, 2)}
    assert "prose" in differences(runs)[1]
    assert "on code" not in differences(runs)[1]


def test_stations_of_one_line_compare(
    folder, measure_record, threshold_record, train_record, sparsify_record
):
    names = ("measured", "shifted", "trained", "line")
    records = (measure_record, threshold_record, train_record, sparsify_record)
    places = [
        folder(name, record, name in ("trained", "line"))
        for name, record in zip(names, records, strict=True)
    ]
    page = comparison_page(places)
    titles = [section.title for section in page.sections]

    assert {"Training", "Thresholds", "Sparsity by layer", "Sparsity by data set"} <= set(titles)
    for section in page.sections:
        assert not section.figure or section.alternative or section.grid
    thresholds = page.sections[titles.index("Thresholds")].grid.rows
    assert [row[:3] for row in thresholds if row[1] == "chosen"] == [
        ("shifted", "chosen", "0.02"),
        ("line", "chosen", "0.02"),
    ]
    assert "Kinds of record: " in page.markdown()


def test_a_changed_recipe_is_shown(folder, train_record):
    recipe = {**train_record.recipe, "optimizer": {"learning_rate": 1e-4}, "out": "elsewhere"}
    other = dataclasses.replace(train_record, recipe=recipe)
    runs = read_runs([folder("a", train_record), folder("b", other)])

    assert setting_grid(runs).rows == (("optimizer.learning_rate", "0.0003", "0.0001"),)


def test_folders_of_one_name_are_told_apart(folder, measure_record):
    runs = read_runs([folder("one/model", measure_record), folder("two/model", measure_record)])

    assert [run.name for run in runs] == ["one/model", "two/model"]


def test_the_comparison_has_a_folder_of_its_own(folder, measure_record, tmp_path):
    places = [folder("a", measure_record), folder("b", measure_record)]

    with pytest.raises(UserError, match="give --out"):
        report(*places)
    out = tmp_path / "compared"
    assert report(*places, out=out) == out / "report.html"
    assert sorted(path.name for path in out.iterdir()) == [
        "report.html", "report.json", "report.md",
    ]  # fmt: skip
    with pytest.raises(UserError, match="already exists"):
        report(*places, out=out)
    assert not (places[0] / "report.html").exists()


def test_mistakes_are_sentences(folder, relufy_record, measure_record, train_record):
    a = folder("a", measure_record)
    with pytest.raises(UserError, match="given twice"):
        read_runs([a, a / "record.json"])
    with pytest.raises(UserError, match="'relufy', which does not compare"):
        read_runs([a, folder("b", relufy_record)])
    unmeasured = dataclasses.replace(train_record, milestones=())
    with pytest.raises(UserError, match="not measured on held-out text"):
        read_runs([a, folder("c", unmeasured)])
    with pytest.raises(UserError, match="No run to report on"):
        report()
