# SPDX-License-Identifier: Apache-2.0
"""Where the points of a law come from: the log or milestones of a run, several runs, or a table.

A table is a CSV file with a header: the law's own column (`tokens`, `width_depth` or `lambda`),
`activation_ratio` in (0, 1), and `weight` if the points are not equally sure (inverse variances up to a
common factor, such as tokens measured).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prosparse.errors import UserError
from prosparse.laws.forms import LAMBDA, WIDTH_DEPTH, Law
from prosparse.records.files import LOG_NAME, read_log, read_record
from prosparse.records.run import SparsifyRecord, StageRecord, TrainRecord

BILLION = 1e9
RATIO, WEIGHT = "activation_ratio", "weight"


@dataclass(frozen=True, slots=True)
class Points:
    """Measured points of one curve, by rising x."""

    name: str
    model: str
    source: str
    x: np.ndarray
    activation_ratio: np.ndarray
    weights: np.ndarray

    def between(self, least: float | None, most: float | None) -> Points:
        """Return the points with least <= x <= most."""
        low, high = (-np.inf if least is None else least), (np.inf if most is None else most)
        kept = (self.x >= low) & (self.x <= high)
        columns = (self.x[kept], self.activation_ratio[kept], self.weights[kept])
        return Points(self.name, self.model, self.source, *columns)


def read_points(law: Law, runs: Sequence[str | Path], stage: str | None) -> list[Points]:
    """Return the points of each curve: one for each run or table, or one through all runs.

    Raises:
        UserError: A folder is no run or has not what the law needs, or a table is not well formed.
    """
    paths = [Path(run) for run in runs]
    if not paths:
        raise UserError(
            "No run was named; give the output folders of finished runs, or a CSV table."
        )
    if stage is not None and (not law.is_series or any(path.suffix == ".csv" for path in paths)):
        raise UserError("--stage chooses a part of a run, for the laws of data; tables have none.")
    if law.is_series:
        return [
            read_table(path, "tokens", BILLION) if path.suffix == ".csv" else _course(path, stage)
            for path in paths
        ]
    column = law.name.replace("-", "_")
    if any(path.suffix == ".csv" for path in paths):
        return [read_table(path, column) for path in paths]
    return [_ends(law, paths)]


def read_table(path: Path, column: str, unit: float = 1.0) -> Points:
    """Return the points of a CSV file; x is its `column` over `unit`."""
    if not path.is_file():
        raise UserError(f"There is no table {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write the mark
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8.") from None
    rows = csv.DictReader(text.splitlines())
    lacking = [name for name in (column, RATIO) if name not in (rows.fieldnames or ())]
    if lacking:
        raise UserError(
            f"{path} lacks the column {lacking[0]}; its header must have {column} and {RATIO}."
        )
    found = []
    for number, row in enumerate(rows, start=2):
        try:
            x, ratio = float(row[column]) / unit, float(row[RATIO])
            found.append((x, ratio, float(row[WEIGHT]) if WEIGHT in row else 1.0))
        except (TypeError, ValueError):
            raise UserError(f"{path}, line {number}, has something that is no number.") from None
    return _points(path.stem, path.stem, f"the table {path.name}", found)


def training_record(folder: Path) -> TrainRecord:
    """Return what a run of `train` or `sparsify` trained.

    Raises:
        UserError: The folder holds another kind of record, or none.
    """
    record = read_record(folder)
    if isinstance(record, SparsifyRecord):
        return record.training
    if not isinstance(record, TrainRecord):
        raise UserError(f"{folder} is the result of {record.kind}; give runs of train or sparsify.")
    return record


def _course(folder: Path, stage_name: str | None) -> Points:
    """Return the course of one run at one lambda: its log, or its milestones where it has none."""
    record = training_record(folder)
    stage = None if stage_name is None else _stage(folder, record, stage_name)
    first, last = (1, record.num_steps) if stage is None else (stage.first_step, stage.last_step)
    log = read_log(folder / LOG_NAME)
    if log:
        # a line is a mean since the line before: it stands in the middle, and weighs its tokens
        starts = [{"step": 0, "tokens": 0}, *log]
        lines = [
            (line["factor"], (before["tokens"] + line["tokens"]) / 2, 1 - line["sparsity"],
             line["tokens"] - before["tokens"])
            for before, line in zip(starts, log, strict=False)
            if before["step"] + 1 >= first and line["step"] <= last
        ]  # fmt: skip
    else:
        lines = [
            (m.factor, m.tokens_seen, 1 - m.sparsity, 1.0)
            for m in record.milestones
            if m.tokens_seen > 0 and first <= m.step <= last
        ]
    if len({factor for factor, *_ in lines}) > 1:
        constant = [s.name for s in record.stages if s.start_factor == s.end_factor]
        raise UserError(
            f"lambda changes within {folder}, and the law is about training data alone: choose a "
            f"part where it does not change with --stage (here: {', '.join(constant) or 'none'})."
        )
    what = "training batches (the log)" if log else "held-out text (the milestones)"
    where = "" if stage is None else f", {stage.name}"
    at = f", lambda {lines[0][0]:g}" if lines else ""
    found = [(tokens / BILLION, ratio, weight) for _, tokens, ratio, weight in lines]
    return _points(folder.name, record.model, f"{what}{where}{at}", found)


def _stage(folder: Path, record: TrainRecord, name: str) -> StageRecord:
    for stage in record.stages:
        if stage.name == name:
            return stage
    names = ", ".join(stage.name for stage in record.stages)
    raise UserError(f"{folder} has no stage '{name}'; its stages are {names}.")


def _ends(law: Law, folders: Sequence[Path]) -> Points:
    """Return one point for each run: where it ended."""
    found, models = [], []
    for folder in folders:
        record = training_record(folder)
        if not record.milestones:
            raise UserError(
                f"{folder} has no measured sparsity; give its recipe a 'measure' section."
            )
        end = record.milestones[-1]
        x = end.factor if law is LAMBDA else _width_over_depth(folder)
        found.append((x, 1 - end.sparsity, 1.0))
        models.append(record.model)
    if law is LAMBDA and len(set(models)) > 1:
        raise UserError(f"The runs are of different models ({', '.join(sorted(set(models)))}).")
    return _points(
        f"{len(folders)} runs", ", ".join(dict.fromkeys(models)),
        "held-out text at the end of each run, before any threshold", found,
    )  # fmt: skip


def _width_over_depth(folder: Path) -> float:
    """Return d_model / layers of the checkpoint in a run's folder."""
    for path in (folder / "config.json", folder / "model" / "config.json"):
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            config = config.get("text_config", config)
            if {"hidden_size", "num_hidden_layers"} <= config.keys():
                return config["hidden_size"] / config["num_hidden_layers"]
    raise UserError(
        f"{folder} has no checkpoint whose config.json gives hidden_size and num_hidden_layers; give "
        f"a table with the columns {WIDTH_DEPTH.name.replace('-', '_')} and {RATIO} instead."
    )


def _points(
    name: str, model: str, source: str, found: Iterable[tuple[float, float, float]]
) -> Points:
    rows = sorted(found)
    for x, ratio, weight in rows:
        if not (0 < x < np.inf and 0 < ratio < 1 and 0 < weight < np.inf):
            raise UserError(
                f"A point of {name} cannot be used: x must be above 0, the activation ratio within "
                f"(0, 1) and the weight above 0; found {x:g}, {ratio:g} and {weight:g}."
            )
    return Points(name, model, source, *np.array(rows, dtype=float).reshape(-1, 3).T)
