# SPDX-License-Identifier: Apache-2.0
"""How a run's numbers were made, and how to read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.records.decode_speed import DecodeSpeedRecord
from prosparse.records.evaluation import EvaluationRecord
from prosparse.records.export import ExportRecord
from prosparse.records.frontier import FrontierRecord
from prosparse.records.inspection import InspectionRecord
from prosparse.records.law import LambdaLawRecord
from prosparse.records.law_fit import LawsRecord
from prosparse.records.predictor import PredictorEvalRecord, PredictorFitRecord
from prosparse.records.quantization import QuantizeRecord
from prosparse.records.run import Milestone, RelufyRecord, SparsifyRecord, TrainRecord
from prosparse.records.sparsity import Activation, DataMeasure, MeasureRecord
from prosparse.records.speed import OpsSpeedRecord
from prosparse.records.threshold import ThresholdRecord
from prosparse.records.training_speed import TrainSpeedRecord
from prosparse.records.training_step import TrainStepRecord
from prosparse.reporting.evaluation_sections import evaluation_facts, evaluation_notes
from prosparse.reporting.export_sections import export_facts
from prosparse.reporting.grids import Grid
from prosparse.reporting.law_fit_sections import law_facts, law_notes
from prosparse.reporting.numerals import compact_number, duration, listing
from prosparse.reporting.predictor_sections import PREDICTOR_NOTES, predictor_facts
from prosparse.reporting.speed_summary import speed_facts, speed_notes
from prosparse.reporting.training_speed import train_speed_facts, train_speed_notes
from prosparse.reporting.training_step import train_step_facts

if TYPE_CHECKING:
    from prosparse.records.files import Record

INSPECTED = (
    "What fires a neuron most shows what it is for only where it fires on little else: read the share "
    "of tokens with the text. Every window gives one place at most. The first token of a window "
    "is left out: it has no context, and many neurons fire on it alone."
)


def run_facts(record: Record) -> Grid:
    """Return model, cost, machine and versions of a run, as a list of names and values."""
    made = record.provenance
    facts = [("model", record.model), *_kind_facts(record)]
    facts += [
        ("device", made.device),
        ("CPU threads", str(made.num_threads)),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.packages.items())),
        ("Python", f"{made.python} on {made.platform}"),
        ("command", made.command),
        ("date", made.date),
        ("git commit", made.git_commit or "not run from a source tree"),
        ("seed", "none" if made.seed is None else str(made.seed)),
    ]
    return Grid((), tuple(facts), num_text_columns=2)


def reading_notes(record: Record) -> list[str]:
    """Return what a reader must know of the numbers on the page, one sentence or two each."""
    if isinstance(record, OpsSpeedRecord | DecodeSpeedRecord):
        return speed_notes(record)
    if isinstance(record, TrainSpeedRecord):
        return train_speed_notes(record)
    if isinstance(record, TrainStepRecord):
        return [record.method]
    if isinstance(record, LawsRecord):
        return law_notes(record)
    if isinstance(record, InspectionRecord):
        return [INSPECTED]
    if isinstance(record, EvaluationRecord):
        return evaluation_notes(record)
    if isinstance(record, PredictorFitRecord | PredictorEvalRecord):
        return PREDICTOR_NOTES
    measures = _measures(record)
    if not measures:
        return []
    sources = [f"{m.num_tokens:,} tokens of {m.data} ({m.source})" for m in measures]
    notes = [
        "Sparsity is the share of exact zeros in x_1 = act(gate) * up, the input of down_proj: the "
        f"mean over tokens, then over layers, measured on {listing(sources)}. It is activation "
        "sparsity: no weight was removed.",
        f"Perplexity is exp of the mean negative log-likelihood of a token{_window(record)}. "
        "The number after ± is one standard error, with whole windows as the independent units.",
    ]
    if isinstance(record, MeasureRecord) and record.metric is not None:
        notes.append(
            "Weak neurons were switched off by the metric while the model ran; the zeros are those "
            "that this made, and the weights are as they were."
        )
    if isinstance(record, QuantizeRecord):
        notes.append(
            "The perplexity increase comes from paired differences of the same windows, which took no "
            "part in deciding, and is the mean over data sets of the loss."
        )
    if isinstance(record, ThresholdRecord | SparsifyRecord):
        notes.append(
            "A threshold's perplexity increase comes from paired differences of the same windows, "
            "so its standard error is usually much smaller than that of either perplexity."
        )
    if isinstance(record, TrainRecord | SparsifyRecord):
        notes += [
            "The changes of perplexity at the top compare the last milestone with the first. Training "
            "also adapts the model to its data, which moves perplexity by itself, often far down; "
            "only the dense model trained on the same tokens would tell the two apart.",
            "The curves over steps are of the training batches, the milestones of held-out text, so "
            "the two need not meet.",
        ]
    return notes


def activation_text(activation: Activation) -> str:
    """Return an activation function in words, e.g. `fatrelu (0.02)`."""
    if activation.param is None:
        return activation.name
    if isinstance(activation.param, tuple):
        low, high = (compact_number(bound(activation.param)) for bound in (min, max))
        return f"{activation.name} ({low} to {high}, by layer)"
    return f"{activation.name} ({compact_number(activation.param)})"


def _kind_facts(record: Record) -> list[tuple[str, str]]:
    match record:
        case RelufyRecord():
            change = f"{activation_text(record.replaced)} to {activation_text(record.activation)}"
            return [("activation", change)]
        case MeasureRecord() | InspectionRecord():
            return [
                ("activation", activation_text(record.activation)),
                ("context length", f"{record.context_length:,} tokens"),
                ("dtype", record.dtype),
                ("time", duration(record.seconds)),
            ]
        case ThresholdRecord() | QuantizeRecord():
            return [
                ("context length", f"{record.context_length:,} tokens"),
                ("dtype", record.dtype),
                ("time", duration(record.seconds)),
            ]
        case TrainRecord():
            return _training_facts(record)
        case OpsSpeedRecord() | DecodeSpeedRecord():
            return speed_facts(record)
        case TrainSpeedRecord():
            return train_speed_facts(record)
        case TrainStepRecord():
            return train_step_facts(record)
        case ExportRecord():
            return [("activation", activation_text(record.activation)), *export_facts(record)]
        case PredictorFitRecord() | PredictorEvalRecord():
            return predictor_facts(record)
        case LambdaLawRecord():
            return [("runs", f"{len(record.points)}"), ("R²", f"{record.r_squared:.5f}")]
        case LawsRecord():
            return law_facts(record)
        case FrontierRecord():
            return [("control", record.control.run), ("points", f"{len(record.points)}")]
        case EvaluationRecord():
            return evaluation_facts(record)
        case SparsifyRecord():
            return [
                *_training_facts(record.training),
                ("time of the threshold search", duration(record.threshold.seconds)),
                ("time of the whole line", duration(record.seconds)),
                ("measured with", f"windows of {record.threshold.context_length:,} tokens"),
            ]


def _training_facts(record: TrainRecord) -> list[tuple[str, str]]:
    return [
        ("activation in training", activation_text(record.activation)),
        ("training tokens", f"{record.num_tokens:,} in {record.num_steps:,} steps"),
        ("tokens in a step", f"{record.tokens_per_step:,}"),
        ("training time", duration(record.seconds)),
        ("training speed", f"{record.tokens_per_second:,.0f} tokens/s"),
        ("precision", record.precision),
    ]


def _measures(record: Record) -> tuple[DataMeasure, ...]:
    match record:
        case MeasureRecord():
            return record.data
        case ThresholdRecord():
            return record.candidates[0].data
        case QuantizeRecord():
            return record.before
        case FrontierRecord():
            return record.control.data
        case TrainRecord() | SparsifyRecord():
            return _last(record.milestones)
        case _:
            return ()


def _last(milestones: tuple[Milestone, ...]) -> tuple[DataMeasure, ...]:
    return milestones[-1].data if milestones else ()


def _window(record: Record) -> str:
    measured = record.threshold if isinstance(record, SparsifyRecord) else record
    if not isinstance(measured, MeasureRecord | ThresholdRecord | QuantizeRecord):
        return ""
    length = measured.context_length
    return f" in windows of {length:,} tokens; figures at other window lengths do not compare"
