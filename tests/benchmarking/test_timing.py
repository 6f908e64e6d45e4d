# SPDX-License-Identifier: Apache-2.0
import time

import pytest
import torch

from prosparse.benchmarking.limit import fit_line, measure_limit
from prosparse.benchmarking.timing import Repeats, Replay, Stopwatch, spread

CPU = torch.device("cpu")


def test_a_call_costs_the_replay_over_the_number_of_calls():
    def slow():
        time.sleep(0.004)
        return torch.ones(1)

    replay = Replay([slow, lambda: torch.ones(1)], CPU)
    times = Stopwatch(CPU, Repeats(warmup=1, timed=5)).time(replay)
    assert 2000 <= times.p10 <= times.median <= times.p90
    assert times.median < 6000


def test_spread_is_median_and_outer_tenths():
    times = spread([float(n) for n in range(101)])
    assert (times.median, times.p10, times.p90) == (50, 10, 90)


def test_poison_shows_what_was_not_written():
    kept = torch.zeros(4)

    def writes_half():
        kept[:2] = 1
        return kept

    (out,) = Replay([writes_half], CPU).run_poisoned()
    assert out.isnan().tolist() == [False, False, True, True]


def test_the_line_goes_through_points_on_it_and_weighs_relative_errors():
    assert fit_line([(x, 2.35 + 0.322 * x) for x in (0.2, 1, 10, 270)]) == pytest.approx(
        (2.35, 0.322)
    )
    a, _ = fit_line([(0, 2.0), (1, 3.0), (1000, 1100.0)])
    assert a == pytest.approx(2.0, abs=0.05)


def test_the_limit_is_measured_and_says_how():
    limit = measure_limit(CPU, Stopwatch(CPU, Repeats(1, 3)))
    assert "CPU" in limit.method
    assert len(limit.points) == 3
    assert all(point.us > 0 for point in limit.points)
    assert limit.us(2.0) == pytest.approx(limit.launch_us + 2 * limit.us_per_mb)


def test_in_turns_every_replay_runs_once_in_a_round():
    order = []

    class Noted:
        num_calls = 2

        def __init__(self, name):
            self.run = lambda: order.append(name)

    times = Stopwatch(torch.device("cpu"), Repeats(1, 3)).time_in_turns([Noted("a"), Noted("b")])
    assert order == ["a", "b"] * 4
    assert [len(readings) for readings in times] == [3, 3]
