# SPDX-License-Identifier: Apache-2.0
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosparse.errors import UserError
from prosparse.training.schedule import Schedule, Stage

PROSPARSE_7B = Schedule(  # Table 6
    (
        Stage(5_000, 0),
        Stage(6_000, 5e-3),
        Stage(10_000, 5e-2),
        Stage(12_000, 5e-2),
        Stage(16_000, 2e-1),
        Stage(16_500, 2e-1),
    )
)
PROSPARSE_1B = Schedule(  # Table 7
    (
        Stage(10_000, 0),
        Stage(15_000, 1e-3),
        Stage(20_000, 5e-3),
        Stage(25_000, 5e-3),
        Stage(35_000, 5e-2),
        Stage(95_000, 5e-2, fixed=True, name="decay"),
        Stage(101_000, 1e-2, fixed=True, name="SFT"),
    )
)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (1, 0),
        (5_000, 0),
        (5_001, 5e-3),  # the warm-up holds its factor from its first step
        (5_500, 5e-3),
        (6_000, 5e-3),
        (6_001, 5.00000694e-3),
        (7_000, 0.01159009742),  # a quarter: eta = (1 - cos(pi / 4)) / 2 = 0.1464466094
        (8_000, 0.0275),  # half way: the mean of both peaks
        (9_000, 0.04340990258),
        (10_000, 5e-2),
        (10_001, 5e-2),
        (11_234, 5e-2),
        (12_000, 5e-2),
        (13_000, 0.07196699141),
        (14_000, 0.125),
        (16_000, 2e-1),
        (16_250, 2e-1),
        (16_500, 2e-1),
    ],
)
def test_algorithm_1_with_the_numbers_of_table_6(step, factor):
    assert PROSPARSE_7B.factor(step) == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (10_000, 0),
        (10_001, 1e-3),
        (15_000, 1e-3),
        (16_250, 0.00158578644),
        (17_500, 3e-3),
        (20_000, 5e-3),
        (22_500, 5e-3),
        (25_000, 5e-3),
        (30_000, 0.0275),
        (35_000, 5e-2),
        (35_001, 5e-2),
        (65_000, 5e-2),
        (95_000, 5e-2),
        (95_001, 1e-2),  # SFT holds its own, lower factor at once
        (98_000, 1e-2),
        (101_000, 1e-2),
    ],
)
def test_algorithm_1_with_the_decay_and_sft_stages_of_table_7(step, factor):
    assert PROSPARSE_1B.factor(step) == pytest.approx(factor, rel=1e-8)


def test_stages_know_their_bounds_and_names():
    schedule = PROSPARSE_1B
    assert schedule.num_steps == 101_000
    assert [schedule.stage_at(step) for step in (1, 10_000, 10_001, 95_000, 95_001)] == [
        *(0, 0, 1, 5, 6)
    ]
    assert [schedule.first_step(index) for index in (0, 1, 6)] == [1, 10_001, 95_001]
    assert [schedule.start_factor(index) for index in range(7)] == [
        *(0, 1e-3, 1e-3, 5e-3, 5e-3, 5e-2, 1e-2)
    ]
    assert [schedule.stage_name(index) for index in (0, 4, 5)] == ["stage 0", "stage 4", "decay"]


def test_one_stage_with_a_penalty_is_the_fixed_l1_baseline():
    schedule = Schedule((Stage(100, 0.3),))
    assert {schedule.factor(step) for step in range(1, 101)} == {0.3}


NEVER = st.just(False)


@st.composite
def schedules(draw, fixed=NEVER):
    lengths = draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=6))
    peaks = sorted(draw(st.lists(st.floats(0, 1e3), min_size=len(lengths), max_size=len(lengths))))
    until, stages = 0, []
    for length, peak in zip(lengths, peaks, strict=True):
        until += length
        stages.append(Stage(until, peak, fixed=draw(fixed)))
    return Schedule(tuple(stages))


@given(schedules(), st.data())
def test_lambda_never_decreases_and_stays_between_start_and_peak(schedule, data):
    step = data.draw(st.integers(1, schedule.num_steps))
    index = schedule.stage_at(step)
    assert schedule.first_step(index) <= step <= schedule.stages[index].until
    slack = 1e-12 * schedule.stages[index].factor
    assert schedule.start_factor(index) - slack <= schedule.factor(step)
    assert schedule.factor(step) <= schedule.stages[index].factor + slack
    if step < schedule.num_steps:
        assert schedule.factor(step) <= schedule.factor(step + 1) + slack


@given(schedules(fixed=st.booleans()))
def test_lambda_reaches_its_peak_at_the_last_step_of_each_stage(schedule):
    for stage in schedule.stages:
        assert schedule.factor(stage.until) == pytest.approx(stage.factor, rel=1e-12, abs=0)


@given(schedules())
def test_lambda_leaves_each_peak_smoothly(schedule):
    """One step into a rise of n steps is at most (pi / 2n)^2 of it, as 1 - cos x <= x^2 / 2."""
    for index, stage in enumerate(schedule.stages[:-1]):
        following = schedule.stages[index + 1]
        if stage.factor == 0:
            continue  # the warm-up is a step by design
        num_steps = following.until - stage.until
        rise = following.factor - stage.factor
        jump = schedule.factor(stage.until + 1) - schedule.factor(stage.until)
        assert abs(jump) <= rise * (math.pi / 2 / num_steps) ** 2 + 1e-12 * following.factor


@given(schedules(fixed=st.booleans()), st.data())
def test_lambda_depends_on_the_step_alone(schedule, data):
    steps = data.draw(st.lists(st.integers(1, schedule.num_steps), max_size=20))
    forwards = [schedule.factor(step) for step in steps]
    same = Schedule(tuple(schedule.stages))
    assert [same.factor(step) for step in reversed(steps)] == forwards[::-1]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "give at least one stage"),
        ((Stage(0, 0),), r"stages\[0\].until is 0, but must be greater than 0"),
        ((Stage(5, 0), Stage(5, 1)), r"stages\[1\].until is 5, but must be greater than 5"),
        ((Stage(5, 0), Stage(3, 1)), "step counts accumulate"),
        ((Stage(5, -0.1),), r"stages\[0\].factor \(lambda\) must be >= 0; found -0.1"),
        ((Stage(5, math.nan),), "must be >= 0; found nan"),
        ((Stage(5, math.inf),), "must be >= 0; found inf"),
        ((Stage(5, 0.2), Stage(9, 0.1)), r"stages\[1\].factor decreases from 0.2 to 0.1"),
        ((Stage(5, 0.2), Stage(9, 0.1)), "fixed: true"),
        ((Stage(5, 0, name="a"), Stage(9, 0, name="a")), r"stages\[1\] is called 'a', as is"),
        ((Stage(5, 0, name="stage 1"), Stage(9, 0)), r"stages\[1\] is called 'stage 1'"),
    ],
)
def test_an_impossible_schedule_is_refused_in_one_sentence(stages, message):
    with pytest.raises(UserError, match=message):
        Schedule(stages)
