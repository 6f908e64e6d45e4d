# SPDX-License-Identifier: Apache-2.0
import copy
import math
from dataclasses import asdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prosparse.training.controller import SparsityController
from prosparse.training.schedule import Schedule, Stage
from tests.training.plant import Plant, ride

HALF_A_POINT = 0.005
STAGES = (Stage(20, 0), Stage(40, 0.1), Stage(240, 8.0))

plants = st.builds(
    Plant,
    base=st.floats(0.45, 0.7),
    target=st.floats(0.78, 0.92),
    target_factor=st.floats(0.5, 6.0),
    alpha=st.floats(0.22, 0.45),
    lag=st.floats(0, 0.08),
    second_lag=st.floats(0, 0.02),
    creep=st.floats(0, 0.1),
    noise=st.floats(0, 0.003),
    excess=st.floats(-0.01, 0.01),
    seed=st.integers(0, 1000),
)


@settings(max_examples=150, deadline=None)
@given(plants, st.sampled_from([300, 1000]))
def test_it_settles_within_half_a_point_of_the_target_on_held_out_text(plant, num_steps):
    made = ride(plant, num_steps)
    end = made.held_out[-num_steps // 20 :]
    assert max(abs(sparsity - plant.target) for sparsity in end) < HALF_A_POINT


@settings(max_examples=100, deadline=None)
@given(plants, st.sampled_from([50, 400]), st.floats(0.2, 1000))
def test_lambda_never_moves_faster_than_a_sine_stage_would(plant, num_steps, highest):
    made = ride(plant, num_steps, highest)
    before = num_steps // 5
    sine = Schedule((Stage(before // 2, 0), Stage(before, 0.1), Stage(before + num_steps, highest)))
    curve = [sine.factor(before + step) for step in range(num_steps + 1)]
    steepest = max(after - now for now, after in pairwise(curve))
    slack = 1e-12 * highest
    for step, (now, after) in enumerate(pairwise(made.factors)):
        assert abs(after - now) <= steepest + slack
        if (
            2 * (step + 1) <= num_steps
        ):  # where the sine gathers speed, neither is lambda ahead of it
            assert after - now <= curve[step + 1] - curve[step] + slack
            assert after <= curve[step + 1] + slack
    assert all(0 < factor <= highest for factor in made.factors)


def test_the_stages_before_the_last_are_algorithm_1_s():
    schedule = Schedule((Stage(5, 0), Stage(10, 0.1), Stage(20, 0.5), Stage(40, 8.0)))
    controller = SparsityController(schedule, 0.8)
    for step in range(1, 21):
        assert controller.factor(step) == schedule.factor(step)
        controller.observe(step, 0.6)
    assert controller.factor(21) > 0.5


def test_a_mean_that_rises_by_itself_is_answered_by_a_lower_lambda():
    made = ride(Plant(target=0.8, creep=0.15, noise=0), 1000)
    peak = max(made.factors)
    assert made.factors[-1] < 0.9 * peak
    assert abs(made.held_out[-1] - 0.8) < HALF_A_POINT


def test_a_target_out_of_reach_winds_nothing_up():
    """At its bound for long, lambda still comes down at once when it may."""
    controller = SparsityController(Schedule(STAGES), 0.9)
    for step in range(1, 216):
        controller.observe(step, 0.5 if step <= 40 else 0.7)
    assert controller.factor(216) == 8.0
    for step in range(216, 231):
        controller.observe(step, 0.97)
    assert controller.factor(231) < 8.0 - 5 * controller.slew(231)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 1.0])
def test_a_target_below_what_the_model_has_anyway_lets_lambda_go(sparsity):
    controller = SparsityController(Schedule(STAGES), 0.2)
    for step in range(1, 240):
        controller.observe(step, sparsity)
        assert math.isfinite(controller.factor(step + 1))
        assert controller.factor(step + 1) > 0 or step < 20


def test_held_out_text_is_what_counts():
    """The batches show a point less: they end a point below the target, held-out text at it."""
    made = ride(Plant(target=0.85, excess=0.01, noise=0, lag=0.02))
    assert made.controller.state.sparsity == pytest.approx(0.84, abs=0.002)
    assert made.controller.estimate == pytest.approx(0.85, abs=0.002)
    assert made.held_out[-1] == pytest.approx(0.85, abs=0.002)


@pytest.mark.invariant
@pytest.mark.parametrize("stop", [10, 30, 41, 150])
def test_a_restored_controller_goes_on_to_the_last_bit(tmp_path, stop):
    def observe(controller, steps):
        for step in steps:
            controller.observe(step, 0.6 + 0.2 * step / 240 + 0.01 * math.sin(step))
            if step % 25 == 0:
                controller.correct(0.6 + 0.2 * step / 240)

    whole, first, second = (SparsityController(Schedule(STAGES), 0.81) for _ in range(3))
    observe(whole, range(1, 240))
    observe(first, range(1, stop + 1))
    first.save(tmp_path)
    later = copy.deepcopy(asdict(first.state))
    second.restore(tmp_path)
    assert asdict(second.state) == later
    observe(second, range(stop + 1, 240))
    assert asdict(second.state) == asdict(whole.state)
    assert second.factor(240) == whole.factor(240)
