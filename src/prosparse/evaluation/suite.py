# SPDX-License-Identifier: Apache-2.0
"""Which tasks there are, what counts in each, and how Table 1 groups them: `suite.yaml` as data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from prosparse.errors import UserError
from prosparse.records.codec import decode
from prosparse.records.evaluation import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

SUITE_FILE = Path(__file__).with_name("suite.yaml")
TASKS_FOLDER = Path(__file__).with_name("tasks")
SUITES = ("paper", "quick")


@dataclass(frozen=True, slots=True)
class SuiteTask:
    """One benchmark of the suite."""

    name: str
    title: str
    """As in the paper's tables."""
    shots: int
    metric: str
    """The lm-eval metric that counts."""
    answers: Literal["ranked", "generated", "none"]
    """Candidates by their perplexity, free text, or none (a perplexity of the text itself)."""
    quick: int
    """Items in `--suite quick`."""
    train_split_in: tuple[str, ...] = ()
    """Corpora known to hold the training split, or a part of it."""
    items_in: tuple[str, ...] = ()
    """Corpora known to hold some of the items themselves."""

    @property
    def runs_code(self) -> bool:
        """Whether answers are judged by running them."""
        return self.metric.startswith("pass@")


@dataclass(frozen=True, slots=True)
class Suite:
    """All benchmarks, and the columns of Table 1."""

    columns: tuple[Column, ...]
    tasks: tuple[SuiteTask, ...]


@cache
def load_suite() -> Suite:
    """Return the suite."""
    data = yaml.safe_load(SUITE_FILE.read_text(encoding="utf-8"))
    return decode(Suite, data, SUITE_FILE.name)


def choose_tasks(suite: str, names: Sequence[str] | None) -> tuple[SuiteTask, ...]:
    """Return the tasks to run, in the order of the suite; all of them when none is named.

    Raises:
        UserError: There is no such suite or task.
    """
    if suite not in SUITES:
        raise UserError(f"--suite must be one of {', '.join(SUITES)}; found '{suite}'.")
    tasks = load_suite().tasks
    if names is None:
        return tasks
    known = [task.name for task in tasks]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean '{near[0]}'? " if near else ""
            raise UserError(f"There is no task '{name}'; {meant}Tasks: {', '.join(known)}.")
    return tuple(task for task in tasks if task.name in names)
