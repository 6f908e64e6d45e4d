# SPDX-License-Identifier: Apache-2.0
"""Hold the paper's claims about training against the records of the frontier's runs.

python benchmarks/paper_claims.py FOLDER

FOLDER holds one folder for each run of recipes/frontier, as `sparsify` and `train` wrote them, and of the two of SEEDED
one for each further seed, NAME-seed-N, where there are any. Prints the table of docs/frontier.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from prosparse.laws.frontier import frontier
from prosparse.laws.lambda_law import fit
from prosparse.records.files import read_record
from prosparse.records.frontier import FrontierPoint
from prosparse.records.law import LawPoint
from prosparse.records.run import SparsifyRecord, TrainRecord
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import percent
from prosparse.reporting.tables import markdown_table

FACTORS = (1, 3, 8)
UNPENALIZED = ("vanilla-relu", "shifted-relu")
PENALIZED = tuple(f"{kind}-{factor}" for kind in ("fixed-l1", "prosparse") for factor in FACTORS)
SEEDED = ("fixed-l1-3", "prosparse-8")
PLAIN, FORMATTED = ("wiki", "books"), ("instruct",)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the runs say of one claim."""

    claim: str
    holds: bool
    evidence: str


def verdicts(folder: Path) -> list[Verdict]:
    """Return a verdict on each claim.

    Raises:
        UserError: A run of recipes/frontier is missing.
    """
    whole = {name: read_record(folder / name) for name in (*UNPENALIZED, *PENALIZED)}
    runs = {name: r.training if isinstance(r, SparsifyRecord) else r for name, r in whole.items()}
    prosparse = [name for name in PENALIZED if name.startswith("prosparse")]
    return [
        only_the_penalty_raises_sparsity(runs),
        progressive_beats_fixed(folder),
        lower_layers_are_denser({name: runs[name] for name in prosparse}),
        shifting_helps_lower_layers_most({name: whole[name] for name in prosparse}),
        formatted_text_is_sparser({name: runs[name] for name in prosparse}),
        the_law_of_lambda_fits(runs),
    ]


def only_the_penalty_raises_sparsity(runs: dict[str, TrainRecord]) -> Verdict:
    """Section 4.4, Q1: ReLU alone, shifted or not, stays where the swap has put it."""
    rise = {
        name: 100 * (run.milestones[-1].sparsity - run.milestones[1].sparsity)
        for name, run in runs.items()
    }
    without = {name: rise[name] for name in UNPENALIZED}
    with_it = [rise[name] for name in PENALIZED]
    return Verdict(
        "Only the penalty raises sparsity",
        min(with_it) > 2 * max(without.values()),
        "from the swap to the end of training: "
        + "".join(f"{name} {points:+.1f} points, " for name, points in without.items())
        + f"with a penalty {min(with_it):+.1f} to {max(with_it):+.1f}",
    )


def progressive_beats_fixed(folder: Path) -> Verdict:
    """Section 4.4, Q3: at equal sparsity, before any threshold, smooth stages cost less than one lambda."""
    trained = at_end(folder, PENALIZED)
    found = beside_fixed(list(trained.values()))
    for seed in seeds(folder):
        again = at_end(folder, [f"{name}-seed-{seed}" for name in SEEDED])
        found |= beside_fixed(list({**trained, **again}.values()), only=f"prosparse-8-seed-{seed}")
    told = ", ".join(
        f"{run} at {percent(sparsity, 1)}: {100 * change:+.1f} %"
        for (run, sparsity), change in found.items()
    )
    return Verdict(
        "At equal sparsity, progressive beats fixed",
        bool(found) and max(found.values()) < 0,
        f"perplexity beside that of fixed L1, interpolated: {told or 'no run at an equal sparsity'}",
    )


def seeds(folder: Path) -> list[int]:
    """Return the seeds besides 0 that both runs of SEEDED were repeated with."""
    first, second = (
        {int(path.name.rpartition("-")[2]) for path in folder.glob(f"{name}-seed-*")}
        for name in SEEDED
    )
    return sorted(first & second)


def at_end(folder: Path, names: Sequence[str]) -> dict[str, FrontierPoint]:
    """Return the end of each run's training, before any threshold, by the run's name without its seed."""
    points = frontier([folder / name for name in names], relative_to=folder / "dense").points
    return {p.run.partition("-seed-")[0]: p for p in points if p.label == "trained"}


def beside_fixed(points: list[FrontierPoint], only: str = "") -> dict[tuple[str, float], float]:
    """Return, for progressive runs between two fixed ones, their perplexity over what those have at that sparsity."""
    fixed = sorted((p for p in points if p.run.startswith("fixed")), key=lambda p: p.sparsity)
    return {
        (p.run, p.sparsity): p.ratio / cost_at(fixed, p.sparsity) - 1
        for p in points
        if p.run.startswith(only or "prosparse")
        and fixed[0].sparsity <= p.sparsity <= fixed[-1].sparsity
    }


def cost_at(points: list[FrontierPoint], sparsity: float) -> float:
    """Return the ratio of perplexities on the line through points: its logarithm over that of the active share."""
    active = [-math.log(1 - p.sparsity) for p in points]
    costs = [math.log(p.ratio) for p in points]
    return math.exp(float(np.interp(-math.log(1 - sparsity), active, costs)))


def lower_layers_are_denser(runs: dict[str, TrainRecord]) -> Verdict:
    """Section 4.4, Q5, and Appendix N."""
    thirds = {name: lower_and_upper(r.milestones[-1].layer_sparsity) for name, r in runs.items()}
    return Verdict(
        "Lower layers are denser",
        all(lower < upper for lower, upper in thirds.values()),
        "sparsity of the lowest third of the layers and of the others: "
        + ", ".join(
            f"{name} {percent(a, 1)} and {percent(b, 1)}" for name, (a, b) in thirds.items()
        ),
    )


def shifting_helps_lower_layers_most(runs: dict[str, SparsifyRecord]) -> Verdict:
    """Appendix N: what the chosen threshold adds, in points."""
    gains = {}
    for name, record in runs.items():
        candidates = record.threshold.candidates
        chosen = next(c for c in candidates if c.threshold == record.threshold.chosen)
        before = lower_and_upper(candidates[0].layer_sparsity)
        after = lower_and_upper(chosen.layer_sparsity)
        gains[name] = tuple(100 * (b - a) for a, b in zip(before, after, strict=True))
    return Verdict(
        "Shifting the threshold helps lower layers most",
        all(lower > upper for lower, upper in gains.values()),
        "points gained in the lowest third of the layers and in the others: "
        + ", ".join(f"{name} {a:.1f} and {b:.1f}" for name, (a, b) in gains.items()),
    )


def formatted_text_is_sparser(runs: dict[str, TrainRecord]) -> Verdict:
    """Section 4.4, Q5, and Appendix M: instructions and answers against running text."""
    found = {}
    for name, record in runs.items():
        of = {m.data: m.sparsity for m in record.milestones[-1].data}
        found[name] = fmean(of[n] for n in FORMATTED), fmean(of[n] for n in PLAIN)
    return Verdict(
        "Formatted text is sparser",
        all(formatted > plain for formatted, plain in found.values()),
        "sparsity on instructions, and on wiki and books: "
        + ", ".join(
            f"{name} {percent(a, 1)} and {percent(b, 1)}" for name, (a, b) in found.items()
        ),
    )


def the_law_of_lambda_fits(runs: dict[str, TrainRecord]) -> Verdict:
    """Section 4.4, Q2 (Figure 3): ReLU alone is its point at lambda 0."""
    names = ("vanilla-relu", *(f"prosparse-{factor}" for factor in FACTORS))
    ends = {name: runs[name].milestones[-1] for name in names}
    points = [LawPoint(name, end.factor, end.sparsity) for name, end in ends.items()]
    law = fit(runs[names[0]].model, points, ends["prosparse-3"].sparsity)
    return Verdict(
        "Sparsity follows 100 - exp(a lambda^alpha + b)",
        law.r_squared > 0.99,
        f"R² {law.r_squared:.4f} over {len(points)} runs (ReLU is lambda 0) with three numbers: a {law.a:.2f}, "
        f"alpha {law.alpha:.2f}, b {law.b:.2f}; the paper's 7B: -1.76, 0.30, 3.49",
    )


def lower_and_upper(layers: tuple[float, ...]) -> tuple[float, float]:
    """Return the means over the lowest third and over the other layers."""
    third = len(layers) // 3
    return fmean(layers[:third]), fmean(layers[third:])


def table(folder: Path) -> str:
    """Return the verdicts as Markdown."""
    rows = tuple((v.claim, "yes" if v.holds else "no", v.evidence) for v in verdicts(folder))
    return markdown_table(Grid(("claim", "holds here", "by"), rows, num_text_columns=3))


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
