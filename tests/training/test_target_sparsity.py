# SPDX-License-Identifier: Apache-2.0
"""Runs whose lambda is steered to a target sparsity."""

import copy
from itertools import pairwise
from pathlib import Path

import pytest

from prosparse.training.schedule import Schedule, Stage


class Crash(Exception):
    """Something that was not foreseen."""


@pytest.fixture
def data(recipe_data) -> dict:
    """A recipe of twenty steps that steers the last fourteen."""
    recipe_data["training"].update(micro_batch_size=8, save_every=5, log_every=1)
    recipe_data["measure"]["every"] = 3
    recipe_data["regularization"] = {
        "target_sparsity": 0.53,
        "stages": [
            {"until": 3, "factor": 0},
            {"until": 6, "factor": 0.1},
            {"until": 20, "factor": 50.0},
        ],
    }
    return recipe_data


def test_a_real_run_settles_at_its_target(run, data):
    data["training"]["learning_rate"] = 3e-3
    data["measure"].update(every=20, tokens=2048)
    data["regularization"] = {
        "target_sparsity": 0.75,
        "stages": [
            {"until": 20, "factor": 0},
            {"until": 40, "factor": 0.1},
            {"until": 240, "factor": 60.0},
        ],
    }
    done = run(data)
    measured = {m.step: m.sparsity for m in done.record.milestones}
    assert measured[40] < 0.65  # it was not there before
    assert measured[240] == pytest.approx(0.75, abs=0.005)
    assert measured[220] == pytest.approx(0.75, abs=0.01)
    sine = Schedule((Stage(20, 0), Stage(40, 0.1), Stage(240, 60.0)))
    steepest = max(sine.factor(t + 1) - sine.factor(t) for t in range(40, 240))
    factors = [line["factor"] for line in done.log]
    assert all(abs(b - a) <= steepest * (1 + 1e-9) for a, b in pairwise(factors[39:]))


def test_what_it_does_is_in_the_log_the_record_and_the_milestones(run, data):
    done = run(data)
    last, stage = done.log[-1], done.record.stages[-1]
    assert last["target_sparsity"] == 0.53
    assert last["estimated_sparsity"] == pytest.approx(last["sparsity"], abs=0.05)
    assert 0.1 < last["factor"] <= 50.0
    assert [line["step"] for line in done.log] == list(range(1, 21))
    assert last["coefficient"] == pytest.approx(last["factor"] / 48)
    assert stage.start_factor == 0.1
    assert stage.end_factor == last["factor"] == done.record.milestones[-1].factor
    assert stage.end_coefficient == last["coefficient"]
    assert [line["factor"] for line in done.log[:6]] == [0, 0, 0, 0.1, 0.1, 0.1]
    # What a line says is what the step was trained with.
    assert all(
        line["regularization"] == pytest.approx(line["coefficient"] * line["l1"])
        for line in done.log
    )


@pytest.mark.invariant
@pytest.mark.parametrize("label", ["stage 1", "step 9", "step 15", "stage 2"])
def test_a_resumed_run_is_one_that_was_never_stopped(run, data, label):
    whole = copy.deepcopy(data)
    whole["out"] += "-whole"
    expected = run(whole)

    def crash(milestone) -> None:
        if milestone.label == label:
            raise Crash

    with pytest.raises(Crash):
        run(data, on_milestone=crash)
    resumed = run(data, resume=True)
    resumed.assert_same(expected)
    assert resumed.record.milestones == expected.record.milestones


@pytest.mark.invariant
@pytest.mark.usefixtures("path")
def test_accumulation_changes_no_lambda(run, data):
    whole = run(data)
    data["out"] += "-parts"
    data["training"].update(micro_batch_size=2, gradient_accumulation=4)
    run(data).assert_close(whole)


@pytest.mark.invariant
def test_two_processes_steer_as_one(run, start, finished, data):
    """Held-out measurements are the main process's; the other must go by them as well."""
    data["regularization"]["stages"][-1] = {"until": 46, "factor": 1000.0}  # no limit in the way
    data["measure"]["every"] = 8
    halved = copy.deepcopy(data)
    halved["out"] += "-halved"
    halved["training"].update(micro_batch_size=4)
    process = start(
        halved, launcher=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    )
    whole = run(data)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    log = finished(Path(halved["out"])).log
    assert [line["step"] for line in log] == list(range(1, 47))
    for line, alone in zip(log, whole.log, strict=True):
        # The penalty is the sum of what both processes computed, each with its own lambda.
        expected = line["coefficient"] * line["l1"]
        assert line["regularization"] == pytest.approx(expected, rel=1e-6)
        # A gate on its other side for rounding moves lambda a little.
        assert line["factor"] == pytest.approx(alone["factor"], rel=0.02)
