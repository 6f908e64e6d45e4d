# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped, in whatever way, ends as one that was not: to the last bit."""

import copy
import random
import signal
import time
from pathlib import Path

import pytest

from prosparse.errors import UserError
from prosparse.records.files import read_log
from prosparse.training.workspace import Interrupted

pytestmark = pytest.mark.invariant

LABELS = ["original", "ReLU, untrained", "stage 0", "stage 1", "stage 2"]


class Crash(Exception):
    """Something that was not foreseen."""


@pytest.fixture
def data(recipe_data) -> dict:
    """A recipe that logs and saves at steps that do not fit each other."""
    recipe_data["training"].update(log_every=2, save_every=5, gradient_accumulation=2)
    recipe_data["regularization"]["stages"] = [
        {"until": 4, "factor": 0},
        {"until": 7, "factor": 0.1},
        {"until": 14, "factor": 1.0},
    ]
    return recipe_data


@pytest.fixture
def whole(run, data):
    """The run as it goes when nothing happens."""
    undisturbed = copy.deepcopy(data)
    undisturbed["out"] += "-whole"
    return run(undisturbed)


def wait_for_lines(data: dict, num_lines: int, process) -> None:
    log = Path(data["out"] + ".unfinished") / "log.jsonl"
    deadline = time.monotonic() + 120
    while not log.is_file() or log.read_bytes().count(b"\n") < num_lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_at_a_random_step(run, start, data, whole):
    data["training"]["log_every"] = 1
    num_lines = random.randint(1, 11)
    process = start(data)
    wait_for_lines(data, num_lines, process)
    process.kill()
    process.wait()
    assert not Path(data["out"]).exists()

    told = []
    resumed = run(data, resume=True, on_milestone=told.append)
    whole_lines = {line["step"]: line for line in whole.log}
    every_line = {line["step"]: line for line in resumed.log}
    assert list(every_line) == list(range(1, 15)), f"killed after {num_lines} lines"
    # assert_same, but for the steps that the other run summed up two by two
    assert every_line[1] == whole_lines[1]
    assert [milestone.label for milestone in told] == LABELS
    assert resumed.record.milestones == whole.record.milestones
