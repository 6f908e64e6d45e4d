# SPDX-License-Identifier: Apache-2.0
"""Records on disk: `record.json`, `log.jsonl`, and folders that appear only when whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosparse.errors import UserError
from prosparse.records.codec import decode, encode
from prosparse.records.decode_speed import DecodeSpeedRecord
from prosparse.records.evaluation import EvaluationRecord
from prosparse.records.export import ExportRecord
from prosparse.records.frontier import FrontierRecord
from prosparse.records.inspection import InspectionRecord
from prosparse.records.law import LambdaLawRecord
from prosparse.records.law_fit import LawsRecord
from prosparse.records.predictor import PredictorEvalRecord, PredictorFitRecord
from prosparse.records.quantization import QuantizeRecord
from prosparse.records.run import RelufyRecord, SparsifyRecord, TrainRecord
from prosparse.records.sparsity import MeasureRecord
from prosparse.records.speed import OpsSpeedRecord
from prosparse.records.threshold import ThresholdRecord
from prosparse.records.training_speed import TrainSpeedRecord
from prosparse.records.training_step import TrainStepRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_VERSION = 1
RECORD_NAME = "record.json"
LOG_NAME = "log.jsonl"

Record = (
    RelufyRecord
    | TrainRecord
    | MeasureRecord
    | ThresholdRecord
    | QuantizeRecord
    | SparsifyRecord
    | OpsSpeedRecord
    | DecodeSpeedRecord
    | TrainSpeedRecord
    | TrainStepRecord
    | LambdaLawRecord
    | LawsRecord
    | FrontierRecord
    | InspectionRecord
    | EvaluationRecord
    | PredictorFitRecord
    | PredictorEvalRecord
    | ExportRecord
)
KINDS: dict[str, type] = {
    "relufy": RelufyRecord,
    "train": TrainRecord,
    "measure": MeasureRecord,
    "threshold": ThresholdRecord,
    "quantize": QuantizeRecord,
    "sparsify": SparsifyRecord,
    "bench_ops": OpsSpeedRecord,
    "bench_decode": DecodeSpeedRecord,
    "bench_train": TrainSpeedRecord,
    "bench_train_step": TrainStepRecord,
    "plan": LambdaLawRecord,
    "fit": LawsRecord,
    "frontier": FrontierRecord,
    "inspect": InspectionRecord,
    "evaluate": EvaluationRecord,
    "predictor_fit": PredictorFitRecord,
    "predictor_eval": PredictorEvalRecord,
    "export": ExportRecord,
}


def write_record(record: Record, folder: Path) -> Path:
    """Write `folder/record.json` whole or not at all; return its path."""
    path = folder / RECORD_NAME
    write_whole(path, json.dumps({"schema": SCHEMA_VERSION, **encode(record)}, indent=1) + "\n")
    return path


def read_record(folder: Path) -> Record:
    """Return the record of a folder (or of a path to a `record.json` itself).

    Raises:
        UserError: There is none, it is not JSON, or its schema is newer than this version's.
    """
    path = folder if folder.suffix == ".json" else folder / RECORD_NAME
    if not path.is_file():
        raise UserError(f"No {RECORD_NAME} in {folder}: give the output folder of a prosparse run.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a JSON record: {error}.") from None
    if not isinstance(data, dict) or str(data.get("kind")) not in KINDS:
        raise UserError(
            f"{path} is not a prosparse record: its 'kind' is none of {', '.join(KINDS)}."
        )
    schema = data.pop("schema", None)
    if schema != SCHEMA_VERSION:
        raise UserError(
            f"{path} has record schema {schema}; this version of prosparse reads {SCHEMA_VERSION}."
        )
    return decode(KINDS[data["kind"]], data, str(path))


def write_whole(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `log.jsonl`; a last line cut short by a kill is dropped."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}, is not JSON: {error}.") from None
    return entries


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """Raise unless `folder` is free to be written; called before any slow work.

    Raises:
        UserError: It exists and `overwrite` is false, it is the working directory or above it, or
            the folder it should stand in cannot be written to.
    """
    if folder.exists():
        if not overwrite:
            raise UserError(f"{folder} already exists; choose another --out or pass --overwrite.")
        here = Path.cwd()
        if folder.resolve() in (here, *here.parents):
            raise UserError(f"{folder} holds the working directory and will not be replaced.")
    nearest = next(parent for parent in folder.absolute().parents if parent.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise UserError(f"{folder} cannot be written: {nearest} is no folder to write into.")


@contextlib.contextmanager
def whole_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that takes its name when the block succeeds.

    When the block fails, the temporary folder is removed and whatever stood at `folder` is as it
    was. With `overwrite` the old folder is removed only after the new one is whole.

    Raises:
        UserError: `folder` exists and `overwrite` is false.
    """
    refuse_existing(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    temporary.chmod(0o755)  # mkdtemp's 0700 would stay on the finished folder
    try:
        yield temporary
        put_in_place(temporary, folder, overwrite)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def put_in_place(finished: Path, folder: Path, overwrite: bool = False) -> None:
    """Rename `finished` to `folder`; with `overwrite`, remove what stood there afterwards."""
    refuse_existing(folder, overwrite)
    if not folder.exists():
        finished.replace(folder)
        return
    replaced = folder.with_name(f".{folder.name}.replaced.{os.getpid()}")
    folder.replace(replaced)
    try:
        finished.replace(folder)
    except BaseException:
        replaced.replace(folder)
        raise
    if replaced.is_dir() and not replaced.is_symlink():
        shutil.rmtree(replaced)
    else:
        replaced.unlink()
