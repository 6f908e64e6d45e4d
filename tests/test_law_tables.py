# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/laws.md are those of the records. To make them, print `published()` and `own()`."""

from pathlib import Path

from prosparse.records.files import read_record
from prosparse.reporting.grids import Grid
from prosparse.reporting.law_fit_sections import parameter_grid
from prosparse.reporting.tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/laws.md").read_text("utf-8")
RESULTS = ROOT / "benchmarks/results"
# CURVE_PARAM in show.py of github.com/Raincleared-Song/SparsingLawData: c, alpha, b and A0
PUBLISHED = {
    "0.1b_relu": (3.20, 0.101, -0.0151, 0.0614),
    "0.2b_relu": (0.286, 0.449, -3.05, 0.0674),
    "0.4b_relu": (0.0790, 0.683, -3.46, 0.0690),
    "0.8b_relu": (0.00797, 1.01, -3.49, 0.0721),
    "1.2b_relu": (9.03e-4, 1.33, -3.89, 0.0782),
    "2.4b_relu": (9.04e-6, 2.11, -3.82, 0.0712),
    "0.1b_silu": (0.102, 0.479, 0.409),
    "0.2b_silu": (0.208, 0.844, 0.390),
    "0.4b_silu": (0.420, 1.03, 0.385),
    "0.8b_silu": (0.562, 0.995, 0.383),
    "1.2b_silu": (0.538, 0.967, 0.382),
}


def published_record():
    return read_record(RESULTS / "laws_published_2026-11-26")


def row(fit):
    published = PUBLISHED[fit.name.split()[0]]
    ours = " ".join(f"{p.value:.3g}" for p in fit.parameters)
    limit = fit.parameters[-1]
    reach = "not determined" if limit.low is None else f"{limit.low:.3g} to {limit.high:.3g}"
    return (
        fit.name, str(fit.num_points), " ".join(f"{v:.3g}" for v in published), ours, reach,
        f"{fit.r_squared:.4f}",
    )  # fmt: skip


def published():
    header = ("points of", "number", "published", "ours", "95 % interval of A0", "R²")
    return markdown_table(Grid(header, tuple(map(row, published_record().fits))))


def own():
    record = read_record(RESULTS / "laws_own_2026-11-26")
    return markdown_table(parameter_grid(record, record.fits[0]))


def test_tables_are_those_of_the_records():
    assert published() in PAGE
    assert own() in PAGE


def test_the_record_holds_no_point_of_the_authors():
    assert not any(fit.points for fit in published_record().fits)


def test_the_fits_that_the_page_says_are_reproduced_are():
    reproduced = [
        fit.name
        for fit in published_record().fits
        if all(
            abs(p.value - v) <= max(0.006 * abs(v), 0.002)
            for p, v in zip(fit.parameters, PUBLISHED[fit.name.split()[0]], strict=True)
        )
        and abs(fit.parameters[-1].value - PUBLISHED[fit.name.split()[0]][-1]) < 4e-4
    ]
    assert reproduced == [
        "0.1b_relu", "0.2b_relu", "0.8b_relu", "1.2b_relu without the first 6",
        "2.4b_relu without the first 3", "0.1b_silu without the first 5",
        "0.2b_silu without the first 6", "0.4b_silu without the first 8",
    ]  # fmt: skip
