# SPDX-License-Identifier: Apache-2.0
"""Experiment trackers beside `log.jsonl`, through transformers' own integrations."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosparse.errors import UserError
from prosparse.training.training_plan import Tracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import TrainerCallback

TENSORBOARD_FOLDER = "tensorboard"
PROJECT = "prosparse"


def check_trackers(names: Sequence[Tracker]) -> None:
    """Raise unless the package of every tracker is installed.

    Raises:
        UserError: One is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"report_to names {name}, which is missing: run pip install {name}.")


def tracker_arguments(names: Sequence[Tracker], run: str) -> dict[str, Any]:
    """Return the arguments of TrainingArguments for the trackers that it can start by itself.

    Args:
        names: Of the trackers.
        run: What the run is called there.
    """
    started = [name for name in names if name != "tensorboard"]
    arguments: dict[str, Any] = {"report_to": started or "none", "run_name": run}
    if "trackio" in started:  # kept on this machine, never on the hub
        arguments |= {"project": PROJECT, "trackio_space_id": None}
    return arguments


def tracker_callbacks(names: Sequence[Tracker], folder: Path) -> list[TrainerCallback]:
    """Return TensorBoard's callback, which is told to write beside the log of the run.

    Left to itself it would write among the checkpoints, which go when the run is done.
    """
    if "tensorboard" not in names:
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(log_dir=str(folder / TENSORBOARD_FOLDER)))]
