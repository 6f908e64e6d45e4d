# SPDX-License-Identifier: Apache-2.0
import torch

from prosparse.training.regularizer import Intermediates
from prosparse.training.totals import Clock, Totals


def add(totals: Totals, number: float) -> None:
    part = torch.tensor(number, dtype=torch.float64)
    totals.add(part, part, part, Intermediates([], torch.tensor([1, 2])))


def test_a_step_that_is_dropped_counts_nowhere():
    totals = Totals(2, torch.device("cpu"), 0.0)
    totals.begin_step(10)
    add(totals, 1.0)
    add(totals, 2.0)
    totals.begin_step(20)  # the first was taken
    add(totals, 100.0)
    assert totals.step_values.tolist() == [100, 100, 100, 0, 1, 2]
    totals.drop_step()
    totals.close_step()  # there is none under way
    assert (totals.num_steps, totals.num_tokens) == (1, 10)
    assert totals.values.tolist() == [3, 3, 3, 0, 2, 4]


def test_the_clock_counts_training_and_not_what_it_is_paused_for(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("prosparse.training.totals.time.monotonic", lambda: now[0])
    clock = Clock(5.0)  # of the parts before a resume
    now[0] += 10
    assert clock.seconds() == 5.0
    clock.start()
    now[0] += 2
    with clock.paused():
        now[0] += 30
        assert clock.seconds() == 7.0
    now[0] += 1
    assert clock.seconds() == 8.0
