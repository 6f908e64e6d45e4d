# SPDX-License-Identifier: Apache-2.0
"""Fit the laws of training data to the points that the authors of Sparsing Law published.

python benchmarks/published_laws.py SparsingLawData OUT

SparsingLawData is a clone of github.com/Raincleared-Song/SparsingLawData. Each model is fitted to all its
points and, where the published curve is not that fit, without the first ones. The record holds the fits and
not the points, which are the authors'.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

import prosparse as ps
from prosparse.laws.forms import LAWS
from prosparse.laws.points import BILLION, Points
from prosparse.laws.run import fit_points
from prosparse.model.device import provenance
from prosparse.records.files import whole_folder, write_record
from prosparse.records.law_fit import LawFit, LawsRecord

LEFT_OUT = {
    "1.2b_relu": 6, "2.4b_relu": 3, "0.1b_silu": 5, "0.2b_silu": 6, "0.4b_silu": 8, "1.2b_silu": 6,
}  # fmt: skip
"""First points left out. The repository's calc.py leaves out six of both 1.2b models when it fits other
functions to compare with. The rest we found by trying 0 to 14 for the published numbers: an outcome
matched after the fact, which shows how the curves were probably made and proves nothing about the law."""


def fits(path: Path) -> list[LawFit]:
    """Return the fit of one model's points, and that without the first ones."""
    data, name = json.loads(path.read_text("utf-8")), path.stem
    tokens, ratio = np.array(data["token_passed"]) / BILLION, np.array(data["activation_ratio"])
    found = []
    for first in dict.fromkeys((0, LEFT_OUT.get(name, 0))):
        title = f"{name} without the first {first}" if first else name
        columns = (tokens[first:], ratio[first:], np.ones(len(tokens) - first))
        points = Points(
            title, "Sparsing Law", "github.com/Raincleared-Song/SparsingLawData", *columns
        )
        fit = fit_points(LAWS[f"data-{name.rpartition('_')[2]}"], points)
        found.append(dataclasses.replace(fit, points=()))
    return found


def main(repository: Path, out: Path) -> None:
    """Fit all models and write record and report."""
    paths = sorted((repository / "data").glob("*.txt"), key=lambda p: (p.stem[-4:], p.stem))
    record = LawsRecord(
        model="Sparsing Law (arXiv:2411.02335), published points",
        confidence=0.95,
        fits=tuple(fit for path in paths for fit in fits(path)),
        provenance=provenance("cpu"),
    )
    with whole_folder(out) as folder:
        write_record(record, folder)
    print(f"Wrote {ps.report(out)}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
