# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped, in whatever way, ends as one that was not: to the last bit."""

import copy
import itertools
import random
import signal
import time
from pathlib import Path

import pytest

from prosparse.errors import UserError
from prosparse.records.files import read_log
from prosparse.training.workspace import Interrupted

pytestmark = pytest.mark.invariant


class Crash(Exception):
    """Something that was not foreseen."""


def crash_at(label: str):
    """Return what `on_milestone` must be for a run to crash at a milestone."""

    def crash(milestone) -> None:
        if milestone.label == label:
            raise Crash

    return crash


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


@pytest.fixture(scope="module")
def kept() -> dict:
    return {}


@pytest.fixture
def whole(run, data, kept, tmp_path_factory):
    """The run as it goes when nothing happens; do not write into it."""
    if not kept:
        undisturbed = copy.deepcopy(data)
        undisturbed["out"] = str(tmp_path_factory.mktemp("whole") / "run")
        kept["run"] = run(undisturbed)
    return kept["run"]


@pytest.fixture
def started(start, data):
    """The run in a process of its own, once it has logged some lines."""

    def started(num_lines: int):
        process = start(data)
        log = Path(data["out"] + ".unfinished") / "log.jsonl"
        deadline = time.monotonic() + 120
        while not log.is_file() or log.read_bytes().count(b"\n") < num_lines:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return process

    return started


def test_killed_at_a_random_moment(run, started, data, whole):
    process = started(random.randint(1, len(whole.log) - 2))
    time.sleep(random.uniform(0, 0.1))
    process.kill()
    process.wait()
    assert not Path(data["out"]).exists()

    told = []
    resumed = run(data, resume=True, on_milestone=told.append)
    resumed.assert_same(whole)
    assert resumed.record.milestones == whole.record.milestones == tuple(told)
    assert not Path(data["out"] + ".unfinished").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_with_ctrl_c_or_sigterm(run, started, data, whole, number):
    process = started(2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Stopping after this step" in output
    assert "The same command with --resume goes on from there." in output

    resumed = run(data, resume=True)
    resumed.assert_same_weights(whole)
    # A line more where it stopped; from the next checkpoint on, the same lines.
    lines = {line["step"]: line for line in resumed.log}
    assert lines[14] == whole.log[-1]
    assert resumed.record.milestones == whole.record.milestones


def test_interrupted_in_this_process_it_says_where_it_stopped(run, data):
    def interrupt(milestone) -> None:
        if milestone.label == "stage 0":
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"after step 4 of 14; the run is in .*run\.unfinished"):
        run(data, on_milestone=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    run(data, resume=True)


@pytest.mark.parametrize("label", ["original", "ReLU, untrained", "stage 0", "stage 1", "stage 2"])
def test_stopped_at_a_milestone_whose_checkpoint_was_not_saved_yet(run, data, whole, label):
    with pytest.raises(Crash):
        run(data, on_milestone=crash_at(label))
    resumed = run(data, resume=True)
    resumed.assert_same(whole)
    assert resumed.record.milestones == whole.record.milestones


def test_stopped_between_the_last_step_and_the_end(run, data, whole, monkeypatch):
    def crash(*args, **kwargs) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr("prosparse.training.run.save", crash)
        with pytest.raises(Crash):
            run(data)
    resumed = run(data, resume=True)
    resumed.assert_same(whole)
    assert resumed.record.milestones == whole.record.milestones
    assert resumed.record.num_tokens == whole.record.num_tokens


def test_a_half_written_checkpoint_is_passed_over(run, data, whole):
    with pytest.raises(Crash):
        run(data, on_milestone=crash_at("stage 2"))
    checkpoints = Path(data["out"] + ".unfinished") / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-10", "checkpoint-7"]
    (checkpoints / "checkpoint-10" / "trainer_state.json").write_text('{"best_gl')
    run(data, resume=True).assert_same(whole)


def test_other_activations_survive(run, recipe_data):
    recipe_data["relufy"] = {"activation": "fatrelu", "threshold": 0.05}
    undisturbed = copy.deepcopy(recipe_data)
    undisturbed["out"] += "-whole"
    with pytest.raises(Crash):
        run(recipe_data, on_milestone=crash_at("stage 1"))
    run(recipe_data, resume=True).assert_same(run(undisturbed))


def test_seconds_and_speed_go_on_where_they_stopped(run, data):
    with pytest.raises(Crash):
        run(data, on_milestone=crash_at("stage 2"))
    lines = read_log(run(data, resume=True).folder / "log.jsonl")
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    for before, line in itertools.pairwise(lines):
        tokens = line["tokens"] - before["tokens"]
        elapsed = line["seconds"] - before["seconds"]
        assert line["tokens_per_second"] == pytest.approx(tokens / elapsed)


def test_resume_with_nothing_unfinished_simply_starts(run, data, whole):
    run(data, resume=True).assert_same(whole)


def test_resume_of_a_finished_run_tells_it_again(run, data):
    finished, told = run(data), []
    again = run(data, resume=True, on_milestone=told.append)
    assert again.record == finished.record
    assert tuple(told) == finished.record.milestones


def test_resume_of_a_finished_run_of_another_recipe_names_the_difference(run, data):
    run(data)
    data["training"]["seed"] = 1
    with pytest.raises(
        UserError, match=r"run has another recipe \(training\.seed: 0 then, 1 now\)"
    ):
        run(data, resume=True)


def test_an_unfinished_run_is_not_begun_again_by_accident(run, data):
    with pytest.raises(Crash):
        run(data, on_milestone=crash_at("original"))
    with pytest.raises(UserError, match="--resume to go on with it or --overwrite to start again"):
        run(data)
    changed = copy.deepcopy(data)
    changed["training"]["learning_rate"] = 2e-3
    with pytest.raises(UserError, match=r"training\.learning_rate: 0\.001 then, 0\.002 now"):
        run(changed, resume=True)
    run(changed, overwrite=True)
