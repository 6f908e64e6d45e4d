# SPDX-License-Identifier: Apache-2.0
"""Several runs as a comparison sees them: what each ended with, whatever kind its record is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prosparse.errors import UserError
from prosparse.records.files import LOG_NAME, Record, read_log, read_record
from prosparse.records.run import Milestone, SparsifyRecord, TrainRecord
from prosparse.records.sparsity import MeasureRecord
from prosparse.records.threshold import ThresholdCandidate, ThresholdRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from prosparse.records.activity import Activity
    from prosparse.records.provenance import Provenance
    from prosparse.records.sparsity import Activation, DataMeasure

COMPARED = "measure, threshold, train and sparsify"


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run: the model it ended with, as it was measured, and how it came there."""

    name: str
    """Of its folder, told apart from the others."""
    kind: str
    model: str
    activation: Activation | None
    """Of the final model; None where the record does not say."""
    sparsity: float
    layer_sparsity: tuple[float, ...]
    data: tuple[DataMeasure, ...]
    context_length: int | None
    """Tokens in a window of the held-out text; None where the record does not say."""
    dtype: str
    provenance: Provenance
    training: TrainRecord | None = None
    log: tuple[dict[str, Any], ...] = ()
    candidates: tuple[ThresholdCandidate, ...] = ()
    chosen: ThresholdCandidate | None = None
    activity: Activity | None = None

    def measure(self, name: str) -> DataMeasure | None:
        """Return what was measured on the data set of this name, if it was."""
        return next((measure for measure in self.data if measure.data == name), None)


def read_runs(folders: Sequence[Path]) -> list[ComparedRun]:
    """Return the runs in these folders, each under a name of its own.

    Raises:
        UserError: A folder has no record, one of a kind that does not compare, or one without
            anything measured on held-out text.
    """
    places = [folder.parent if folder.suffix == ".json" else folder for folder in folders]
    names = _names([place.resolve() for place in places])
    return [
        _run(name, read_record(folder), tuple(read_log(place / LOG_NAME)))
        for name, folder, place in zip(names, folders, places, strict=True)
    ]


def data_names(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the names of all data sets, in the order in which they first appear."""
    return list(dict.fromkeys(measure.data for run in runs for measure in run.data))


def _run(name: str, record: Record, log: tuple[dict[str, Any], ...]) -> ComparedRun:
    match record:
        case MeasureRecord():
            return ComparedRun(
                name, record.kind, record.model, record.activation,
                record.sparsity, record.layer_sparsity, record.data,
                record.context_length, record.dtype, record.provenance,
                activity=record.activity,
            )  # fmt: skip
        case ThresholdRecord():
            end = record.chosen_candidate
            return ComparedRun(
                name, record.kind, record.model, None,
                end.sparsity, end.layer_sparsity, end.data,
                record.context_length, record.dtype, record.provenance,
                candidates=record.candidates, chosen=end,
            )  # fmt: skip
        case TrainRecord():
            end = _last(name, record.milestones)
            return ComparedRun(
                name, record.kind, record.model, end.activation,
                end.sparsity, end.layer_sparsity, end.data,
                record.recipe.get("data", {}).get("context_length"), record.precision,
                record.provenance, record, log,
            )  # fmt: skip
        case SparsifyRecord():
            end = _last(name, record.milestones)
            return ComparedRun(
                name, record.kind, record.model, end.activation,
                end.sparsity, end.layer_sparsity, end.data,
                record.threshold.context_length, record.threshold.dtype,
                record.provenance, record.training, log,
                record.threshold.candidates, record.threshold.chosen_candidate,
            )  # fmt: skip
        case _:
            raise UserError(
                f"{name} holds a record of '{record.kind}', which does not compare: give runs of "
                f"{COMPARED}."
            )


def _last(name: str, milestones: tuple[Milestone, ...]) -> Milestone:
    if not milestones:
        raise UserError(
            f"{name} was not measured on held-out text, so it cannot be compared: run "
            "`prosparse measure` on its model and give that folder."
        )
    return milestones[-1]


def _names(places: Sequence[Path]) -> list[str]:
    """Return each folder's name, with as many folders above it as it takes to tell them apart.

    Raises:
        UserError: One folder comes twice.
    """
    if len(set(places)) < len(places):
        raise UserError("A run is given twice; give each folder once.")
    depth = 1
    while True:
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
        depth += 1
