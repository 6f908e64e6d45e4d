# SPDX-License-Identifier: Apache-2.0
"""The tables and numbers of docs/evaluation.md are those of the records."""

import json
import re
import tarfile
from pathlib import Path
from statistics import fmean

import pytest

from prosparse.records.files import read_record
from prosparse.reporting.evaluation_grids import column_grid, difference_grid
from prosparse.reporting.numerals import duration
from prosparse.reporting.tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGE = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
TABLES = re.findall(r"<!-- (scores|differences): (\S+) -->", PAGE)
GRIDS = {"scores": column_grid, "differences": difference_grid}


def test_the_page_shows_scores_and_differences():
    assert {kind for kind, _ in TABLES} == set(GRIDS)


@pytest.mark.parametrize(("kind", "folder"), TABLES)
def test_table_is_that_of_its_record(kind, folder):
    table = markdown_table(GRIDS[kind](read_record(RESULTS / folder)))
    assert f"<!-- {kind}: {folder} -->\n\n{table}" in PAGE


@pytest.fixture(scope="module")
def items():
    """Every item's answer of the comparison on the GPU: (model's place, task) -> items."""
    found = {}
    with tarfile.open(RESULTS / "evaluation_smollm2_h100_2026-11-26/items.tar.xz") as packed:
        for member in packed:
            if member.isfile():
                _, place, name = member.name.split("/")
                lines = packed.extractfile(member).read().decode().splitlines()
                found[int(place), name.removesuffix(".jsonl")] = [json.loads(x) for x in lines]
    return found


def test_scores_can_be_recounted_from_the_items(items):
    models = read_record(RESULTS / "evaluation_smollm2_h100_2026-11-26").models
    assert len(items) == sum(len(model.tasks) for model in models) == 45
    for place, model in enumerate(models):
        for task in model.tasks:
            if task.metric != "word_perplexity":
                scores = [item[task.metric] for item in items[place, task.task]]
                assert fmean(scores) == pytest.approx(task.score)


def test_what_the_page_says_of_answers_is_so(items):
    yes = [fmean(item["chosen"] for item in items[place, "boolq"]) for place in range(3)]
    assert yes[0] < 0.1  # "no nine times of ten"
    assert all(0.85 < share < 0.9 for share in yes[1:])
    ended = [
        fmean("the answer is" in item["text"] for item in items[place, "bbh"]) for place in range(3)
    ]
    assert ended[0] > 0.4
    assert max(ended[1:]) < 0.1  # "hardly ever"


def test_the_quick_suite_took_what_the_page_says():
    record = read_record(RESULTS / "evaluation_quick_prosparse_plus_cpu_2026-11-26")
    assert record.suite == "quick"
    assert len(record.models[0].tasks) == 15
    assert f"{duration(record.seconds)} on two threads" in PAGE.replace("\n", " ")


def test_dense_and_sparse_agree_on_every_item_of_a_real_model():
    record = read_record(RESULTS / "evaluation_backends_prosparse_3_cpu_2026-11-26")
    dense, sparse = record.models
    assert (dense.hash, dense.backend, sparse.backend) == (sparse.hash, "dense", "sparse")
    assert record.changed_answers == ()
    num_items = sum(task.num_items for task in dense.tasks)
    assert f"all {num_items} items" in PAGE.replace("\n", " ")


def test_perplexities_of_long_windows_are_those_of_the_records():
    def perplexities(folder):
        models = read_record(RESULTS / folder).models
        return [next(t.score for t in m.tasks if t.task == "wikitext2") for m in models]

    control, plus, longer = perplexities("evaluation_control_cpu_2026-11-26")
    original, sparse, _ = perplexities("evaluation_smollm2_h100_2026-11-26")
    assert (
        f"is {control:.1f} in the control, {plus:.1f} in prosparse-plus, {longer:.1f} after its longer "
        f"run, {original:.1f} in the original and {sparse:.1f} in prosparse-3"
    ) in PAGE.replace("\n", " ")
