# SPDX-License-Identifier: Apache-2.0
"""Sparsity against quality over finished runs, from their records alone.

Training also adapts a model to its data, so a sparse model is held against the dense model that was
trained on the same tokens, never against the one that both began with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from prosparse.errors import UserError
from prosparse.model.device import provenance
from prosparse.records.files import read_record, refuse_existing, whole_folder, write_record
from prosparse.records.frontier import FrontierPoint, FrontierRecord
from prosparse.records.run import SparsifyRecord, TrainRecord
from prosparse.records.sparsity import Activation, DataMeasure


def frontier(
    runs: Sequence[str | Path],
    *,
    relative_to: str | Path,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> FrontierRecord:
    """Return finished runs' sparsity and perplexity relative to those of a control.

    Args:
        runs: Output folders of `train` or `sparsify`; of the latter, every threshold tried is a point.
        relative_to: The control's folder: the dense model trained on the same tokens.
        out: Folder for `record.json`; None writes nothing.
        overwrite: Replace `out` if it exists.

    Raises:
        UserError: A folder is no run with measured perplexity, the runs began with another model or
            were measured on other text than the control, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> record = ps.frontier(["runs/relu", "runs/prosparse"], relative_to="runs/dense")
        >>> [(point.run, point.sparsity, point.ratio) for point in record.points]
    """
    if out is not None:
        refuse_existing(Path(out), overwrite)
    if not runs:
        raise UserError("No run was named; give the output folders of finished runs.")
    control = _training(Path(relative_to))
    baseline = _measured(control, str(relative_to))
    points: list[FrontierPoint] = []
    for run in runs:
        record = _training(Path(run))
        if record.model != control.model:
            raise UserError(
                f"The runs do not go together: model is {control.model} in {relative_to} and "
                f"{record.model} in {run}."
            )
        points += _points(Path(run), record, baseline)
    record = FrontierRecord(
        model=control.model,
        control=_trained(Path(relative_to), control, baseline, is_chosen=True),
        points=tuple(points),
        provenance=provenance("cpu"),
    )
    if out is not None:
        with whole_folder(Path(out), overwrite) as folder:
            write_record(record, folder)
    return record


def _training(folder: Path) -> TrainRecord:
    record = read_record(folder)
    if isinstance(record, SparsifyRecord):
        return record.training
    if not isinstance(record, TrainRecord):
        raise UserError(f"{folder} is the result of {record.kind}; give runs of train or sparsify.")
    return record


def _measured(record: TrainRecord, name: str) -> tuple[DataMeasure, ...]:
    if not (record.milestones and record.milestones[-1].data):
        raise UserError(f"{name} has no measured perplexity; give its recipe a 'measure' section.")
    return record.milestones[-1].data


def _points(
    folder: Path, training: TrainRecord, baseline: tuple[DataMeasure, ...]
) -> list[FrontierPoint]:
    whole = read_record(folder)
    if not isinstance(whole, SparsifyRecord):
        return [_trained(folder, training, baseline, is_chosen=True)]
    shifts = whole.threshold
    first = _trained(folder, training, baseline, is_chosen=shifts.chosen == 0)
    shifted = [
        FrontierPoint(
            run=folder.name,
            label=f"t = {candidate.threshold:g}",
            activation=Activation("fatrelu", candidate.threshold),
            is_chosen=candidate.threshold == shifts.chosen,
            factor=first.factor,
            num_tokens=first.num_tokens,
            sparsity=candidate.sparsity,
            data=candidate.data,
            ratios=_ratios(candidate.data, baseline, str(folder)),
        )
        for candidate in shifts.candidates
        if candidate.threshold > 0
    ]
    return [first, *shifted]


def _trained(
    folder: Path, training: TrainRecord, baseline: tuple[DataMeasure, ...], *, is_chosen: bool
) -> FrontierPoint:
    data = _measured(training, str(folder))
    last = training.milestones[-1]
    return FrontierPoint(
        run=folder.name,
        label="trained",
        activation=last.activation,
        is_chosen=is_chosen,
        factor=last.factor,
        num_tokens=training.num_tokens,
        sparsity=last.sparsity,
        data=data,
        ratios=_ratios(data, baseline, str(folder)),
    )


def _ratios(
    data: tuple[DataMeasure, ...], baseline: tuple[DataMeasure, ...], name: str
) -> tuple[float, ...]:
    """Return perplexity over the control's for each data set.

    Raises:
        UserError: They were measured on different text.
    """
    mine, theirs = (
        [(m.data, m.num_tokens, m.num_predictions) for m in d] for d in (data, baseline)
    )
    if mine != theirs:
        raise UserError(
            f"{name} was measured on other text than the control: {_text(data)} here, "
            f"{_text(baseline)} there. Measure both alike."
        )
    return tuple(
        math.exp(here.loss - there.loss) for here, there in zip(data, baseline, strict=True)
    )


def _text(data: tuple[DataMeasure, ...]) -> str:
    return ", ".join(f"{m.num_tokens} tokens of {m.data}" for m in data)
