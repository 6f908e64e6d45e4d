# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/frontier.md are those of the runs. To make them, print `runs()` and `claims()`."""

import importlib
import math
from pathlib import Path
from statistics import fmean

from prosparse.records.files import read_record
from prosparse.reporting.frontier_sections import frontier_grid
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import percent
from prosparse.reporting.tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/frontier.md").read_text("utf-8")
LONG = ROOT / "benchmarks/results/relufication_plus_long_h100_2026-11-26"
LONG_STEPS = (1536, 2304, 3072, 3840, 4608, 5376)
FOLDER = ROOT / "benchmarks/results/relufication_frontier_h100_2026-11-26"


def runs():
    """Each run at its end and under its chosen threshold, without standard errors."""
    grid = frontier_grid(read_record(FOLDER))
    cells = [
        tuple(cell.partition(" ±")[0] for cell in row)
        for row in grid.rows
        if row[1] == "trained" or "chosen" in row[1]
    ]
    return markdown_table(Grid(grid.header[:-1], [row[:-1] for row in cells], num_text_columns=2))


def claims():
    return importlib.import_module("paper_claims").table(FOLDER)


def longer():
    """The long run on its way: held-out text, over the control's end."""
    control = {m.data: m.loss for m in read_record(FOLDER / "dense").milestones[-1].data}
    rows = []
    for found in read_record(LONG).milestones:
        if found.step in LONG_STEPS:
            over = math.exp(fmean(m.loss - control[m.data] for m in found.data))
            tokens = f"{found.tokens_seen / 1e6:.0f}M"
            rows.append((tokens, percent(found.sparsity), f"{over:.3f}x", f"{found.factor:.4f}"))
    header = ("tokens", "sparsity", "over the control", "lambda")
    return markdown_table(Grid(header, tuple(rows)))


def test_the_longer_run_is_that_of_the_record():
    assert longer() in PAGE


def test_the_runs_are_those_of_the_records():
    assert runs() in PAGE


def test_the_verdicts_are_those_of_the_records(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    assert claims() in PAGE


def test_our_own_recipe_keeps_what_the_page_says_of_it():
    record = read_record(FOLDER)
    plus = next(p for p in record.points if p.run == "prosparse-plus")
    vanilla = next(p for p in record.points if p.run == "vanilla-relu")
    assert f"{100 * plus.sparsity:.1f} % zeros at {plus.ratio:.3f} times" in PAGE.replace("\n", " ")
    assert f"{plus.ratio / vanilla.ratio:.2f} times that of ReLU alone" in PAGE.replace("\n", " ")
    assert {p.num_tokens for p in (record.control, *record.points)} == {100_663_296}


def test_more_tokens_bring_it_nearer_by_as_much_as_the_page_says():
    *_, last = longer().splitlines()
    tokens, sparsity, over, _ = (cell.strip() for cell in last.strip("|").split("|"))
    said = f"{sparsity.replace(' %', '')} % zeros at {over.rstrip('x')} times"
    assert f"After {tokens} tokens it has {said}" in PAGE.replace("\n", " ")


def test_the_readme_says_the_same():
    readme = (ROOT / "README.md").read_text("utf-8")
    points = read_record(FOLDER).points
    paper = next(p for p in points if p.run == "prosparse-8" and p.is_chosen)
    ours = next(p for p in points if p.run == "prosparse-plus")
    assert (
        f"pays {paper.ratio:.3f} times its perplexity for {100 * paper.sparsity:.1f} % zeros"
        in readme
    )
    assert f"{ours.ratio:.3f} times for {100 * ours.sparsity:.1f} %" in readme
    over = longer().splitlines()[-1].split("|")[3].strip().rstrip("x")
    assert f"or {over} times after 1.75 times the tokens" in readme
