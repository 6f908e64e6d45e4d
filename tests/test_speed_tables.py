# SPDX-License-Identifier: Apache-2.0
"""The speed tables of the README and of the pages are those of the records.

A table stands under `<!-- ops: FOLDER SHAPE -->` (one token), `<!-- tokens: FOLDER SHAPE -->` (the whole
FFN for several), `<!-- decode: FOLDER MODEL -->` or `<!-- train: FOLDER SHAPE -->`. To make one, print `TABLES[kind](FOLDER, SHAPE)`.
"""

import re
from pathlib import Path

import pytest

from prosparse.records.files import read_record
from prosparse.reporting import page as _page  # noqa: F401 - it knows all headlines
from prosparse.reporting.grids import Grid
from prosparse.reporting.speed_grids import DECODE_HEADER, decode_row, ops_row
from prosparse.reporting.summary import headline
from prosparse.reporting.tables import markdown_table
from prosparse.reporting.training_speed import train_grid

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
MARKER = re.compile(r"<!-- (ops|tokens|decode|train): (\S+) (\S+) -->")
STEPS = {"gate": "step (1)", "up": "step (2)", "down": "step (3)", "ffn": "whole FFN"}
TOKENS_HEADER = (
    "mask",
    "tokens",
    "needed by any",
    "cuBLAS, us",
    "sparse_ffn, us",
    "x dense",
    "of the limit",
)
HEADER = ("step", "contender", "us", "x dense", "x compiled", "of the limit", "GB/s")
SPARSITY = 0.893


def ops_table(folder: str, shape: str) -> str:
    """Return the Markdown of one token at the paper's sparsity, without the Triton fallback."""
    rows = [
        (STEPS[row.step], row.contender, *(ops_row(row)[i] for i in (5, 6, 7, 9, 11)))
        for row in read_record(ROOT / folder).rows
        if row.shape == shape
        and row.num_tokens == 1
        and (row.is_dense or abs(row.sparsity - SPARSITY) < 0.002)
        and "triton" not in row.contender
    ]
    order = list(STEPS.values())
    return markdown_table(Grid(HEADER, sorted(rows, key=lambda row: order.index(row[0]))))


def tokens_table(folder: str, shape: str) -> str:
    """Return the Markdown of the whole FFN at the paper's sparsity, for each number of tokens."""
    rows = [r for r in read_record(ROOT / folder).rows if (r.shape, r.step) == (shape, "ffn")]
    dense = {r.num_tokens: ops_row(r) for r in rows if r.contender == "cuBLAS, dense"}
    sparse = [r for r in rows if r.contender == "sparse_ffn, cuda"]
    cells = [
        (
            r.mask,
            str(r.num_tokens),
            f"{100 * r.union:.0f} %",
            dense[r.num_tokens][5],
            *(ops_row(r)[i] for i in (5, 6, 9)),
        )
        for r in sorted(sparse, key=lambda r: (r.mask == "clustered", r.mask != "random"))
    ]
    return markdown_table(Grid(TOKENS_HEADER, cells))


def decode_table(folder: str, model: str) -> str:
    """Return the Markdown of all contenders of a decode."""
    record = read_record(ROOT / folder)
    assert record.model == model
    rows = [DECODE_HEADER, *(decode_row(row) for row in record.rows)]
    header, *cells = [tuple(row[i] for i in (0, 1, 2, 4, 5, 7, 8, 9)) for row in rows]
    return markdown_table(Grid(header, cells))


def train_table(folder: str, shape: str) -> str:
    """Return the Markdown of one FFN forward and backward."""
    record = read_record(ROOT / folder)
    assert record.model == shape
    grid = train_grid(record, "ffn")
    header, *cells = [tuple(row[i] for i in range(6)) for row in (grid.header, *grid.rows)]
    return markdown_table(Grid(header, cells))


TABLES = {"ops": ops_table, "tokens": tokens_table, "decode": decode_table, "train": train_table}


def shown() -> list[tuple[Path, str, str, str]]:
    return [(page, *found) for page in PAGES for found in MARKER.findall(page.read_text("utf-8"))]


def test_there_are_speed_tables():
    assert len(shown()) >= 3


@pytest.mark.parametrize(("page", "kind", "folder", "shape"), shown())
def test_table_is_that_of_its_record(page, kind, folder, shape):
    expected = f"<!-- {kind}: {folder} {shape} -->\n\n{TABLES[kind](folder, shape)}"
    assert expected in page.read_text("utf-8")


def test_sentences_under_a_headline_marker_are_those_of_their_records():
    found = [
        (page, *match)
        for page in PAGES
        for match in re.findall(r"<!-- headline: (\S+) -->\n(.+)", page.read_text("utf-8"))
    ]
    assert found
    for page, folder, sentence in found:
        assert sentence == headline(read_record(ROOT / folder)), page


def test_the_sentences_on_a_whole_decode_are_those_of_its_record():
    record = read_record(ROOT / "benchmarks/results/decode_7b_h100_2026-11-26")
    speed = {row.contender: row.tokens_per_second for row in record.rows}
    exact, screened = (speed[f"{kind}, our loop, compiled"] for kind in ("sparse", "screened"))
    ours = speed["dense by our rows, our loop, compiled"]
    stock = max(
        v
        for name, v in speed.items()
        if "sparse" not in name and "our rows" not in name and "screened" not in name
    )
    readme, kernels = (
        p.read_text("utf-8").replace("\n", " ") for p in (PAGES[0], ROOT / "docs/kernels.md")
    )
    assert (
        f"{screened:.1f} tokens/s where the fastest dense one from stock parts made {stock:.1f}"
        in readme
    )
    assert f"({screened / stock:.2f}x; " in readme
    assert (
        f"{screened / ours:.2f}x over a dense decode that reads its weights by our rows" in readme
    )
    assert (
        f"exact one is {exact / stock:.2f}x and the screened one {screened / stock:.2f}x as fast"
        in kernels
    )
    assert f"own dense one {exact / ours:.2f}x and {screened / ours:.2f}x" in kernels


def test_the_sentences_on_our_own_dense_kernels_are_those_of_their_record():
    rows = read_record(ROOT / "benchmarks/results/ops_7b_own_dense_cpu_2026-11-26").rows
    ours = {(row.contender, round(row.sparsity, 1)): row for row in rows if not row.is_dense}

    def us(name, sparsity):
        return ours[name, sparsity].us

    def gain(*names):
        return sum(us(n, 0.0) for n in names) / sum(us(n, 0.9) for n in names)

    ffn, gate, pair = "sparse_ffn, cpu", "gate, cpu", ("sparse_up, cpu", "sparse_down, cpu")
    inside = (us(ffn, 0.0) - us(gate, 0.0)) / (us(ffn, 0.9) - us(gate, 0.9))
    share = {key: row.limit_us / row.us for key, row in ours.items()}
    gathered = sum(ours[name, 0.9].limit_us for name in pair) / (us(ffn, 0.9) - us(gate, 0.9))
    eight, four = (gain(f"sparse_ffn, int{bits} weights, cpu") for bits in (8, 4))
    page = " ".join((ROOT / "docs/cpu.md").read_text("utf-8").split())
    for sentence in (
        f"is {gain(ffn):.2f}x as fast with 16-bit weights, {eight:.2f}x with 8 and {four:.2f}x with 4",
        f"are {inside:.2f}x as fast; called one by one they are {gain(*pair):.2f}x",
        f"gate reaches {100 * share[gate, 0.9]:.0f} % ({100 * share[gate, 0.0]:.0f} % at 0 % zeros)",
        f"reach {100 * share[pair[0], 0.9]:.0f} and {100 * share[pair[1], 0.9]:.0f} % as single operators",
        f"and {100 * gathered:.0f} % inside the FFN",
        f"take {us(ffn, 0.9) - us(gate, 0.9):,.0f} us together, as two calls "
        f"{sum(us(name, 0.9) for name in pair):,.0f}",
    ):
        assert sentence in page
