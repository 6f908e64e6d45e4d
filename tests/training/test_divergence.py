# SPDX-License-Identifier: Apache-2.0
"""A broken step is not taken; what came before it is kept."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import Trainer

from prosparse.errors import RunStopped
from prosparse.training import divergence
from prosparse.training.divergence import FEWEST, WINDOW, LossWatch
from prosparse.training.trainer import ProSparseTrainer


def calm(watch: LossWatch, losses) -> None:
    assert [watch.judge(loss, 0.0, 1.0) for loss in losses] == [None] * len(losses)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("place", "name"), [(0, "loss"), (1, "penalty"), (2, "norm of the gradient")]
)
def test_what_is_not_finite_is_named_from_the_first_step_on(place, name, value):
    numbers = [3.0, 0.1, 1.0]
    numbers[place] = value
    assert LossWatch(None).judge(*numbers) == f"the {name} is {value}"


def test_a_jump_is_told_with_what_it_jumped_from():
    watch = LossWatch(2.0)
    calm(watch, [3.0, 3.2] * 20)
    assert watch.judge(5.2, 0.0, 1.0) == (
        "the loss jumped to 5.200 from 3.100, the mean of the 40 steps before"
    )


def test_a_penalty_may_jump_and_a_loss_may_fall():
    watch = LossWatch(2.0)
    calm(watch, [3.0] * 30)
    assert watch.judge(3.0, 50.0, 1.0) is None
    assert watch.judge(0.1, 0.0, 1.0) is None


def test_noise_is_no_jump():
    watch = LossWatch(0.1)
    calm(watch, [1.0, 3.0] * 30 + [3.5])  # one standard deviation, far above max_loss_rise


def test_no_rise_is_too_large_where_none_is_asked_for():
    watch = LossWatch(None)
    calm(watch, [3.0] * 30 + [300.0])


def test_the_first_steps_are_compared_with_nothing():
    watch = LossWatch(2.0)
    calm(watch, [9.0] + [3.0] * (FEWEST - 2) + [30.0])


def test_only_the_last_steps_are_remembered():
    watch = LossWatch(2.0)
    calm(watch, [9.0] * 50 + [8.0] * WINDOW)
    assert "from 8.000" in watch.judge(10.5, 0.0, 1.0)


@pytest.fixture
def break_step(monkeypatch):
    """Change the loss of one step, as it is computed or as it is differentiated; return the mend."""

    def break_step(step: int, change, cls=Trainer) -> Callable[[], None]:
        compute_loss = cls.compute_loss

        def broken(self, *args, **kwargs):
            loss = compute_loss(self, *args, **kwargs)
            if self.state.global_step + 1 != step:
                return loss
            return (change(loss[0]), loss[1]) if isinstance(loss, tuple) else change(loss)

        monkeypatch.setattr(cls, "compute_loss", broken)
        return lambda: monkeypatch.setattr(cls, "compute_loss", compute_loss)

    return break_step


@pytest.mark.parametrize(
    ("cls", "change", "words"),
    [
        (Trainer, lambda loss: loss * math.nan, "the loss is nan"),
        (Trainer, lambda loss: loss + math.inf, "the loss is inf"),
        # A gradient can break where the loss does not.
        (
            ProSparseTrainer,
            lambda loss: loss + (loss.detach() - loss).abs().sqrt(),
            "the norm of the gradient is nan",
        ),
        (Trainer, lambda loss: loss + 50, "the loss jumped to"),
    ],
)
def test_a_run_stops_before_the_broken_step_and_goes_on_to_the_same_end(
    run, plain_data, tmp_path, break_step, monkeypatch, cls, change, words
):
    monkeypatch.setattr(divergence, "FEWEST", 3)
    plain_data["training"].update(log_every=2, save_every=50, gradient_accumulation=2)
    plain_data["regularization"]["stages"] = [{"until": 8, "factor": 0.1}]
    whole = run({**plain_data, "out": str(tmp_path / "whole")})
    mend = break_step(6, change, cls)
    with pytest.raises(RunStopped, match=rf"^Stopped at step 6 of 8, because {words}.*step 5"):
        run(plain_data)
    mend()
    folder = Path(plain_data["out"] + ".unfinished")
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["checkpoint-5"]
    assert not Path(plain_data["out"]).exists()

    resumed = run(plain_data, resume=True)
    resumed.assert_same_weights(whole)
    # One line more, where it stopped; nothing of the broken step is in any line.
    lines = {line["step"]: line for line in resumed.log}
    assert set(lines) == {1, 2, 4, 5, 6, 8}
    assert lines[8] == whole.log[-1]
    assert all(math.isfinite(line["loss"]) and line["loss"] < 10 for line in lines.values())


def test_a_first_step_that_breaks_leaves_nothing_to_resume_from(run, plain_data, break_step):
    break_step(1, lambda loss: loss * math.nan)
    with pytest.raises(RunStopped, match="there was no step before it to save"):
        run(plain_data)
    checkpoints = Path(plain_data["out"] + ".unfinished") / "checkpoints"
    assert not checkpoints.exists() or list(checkpoints.iterdir()) == []


def test_a_step_that_was_saved_is_not_saved_again(run, plain_data, break_step):
    break_step(5, lambda loss: loss * math.nan)  # a checkpoint was saved after step 4
    with pytest.raises(RunStopped, match="after step 4 is saved"):
        run(plain_data)
    checkpoints = Path(plain_data["out"] + ".unfinished") / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-2", "checkpoint-4"]
