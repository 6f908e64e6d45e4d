# SPDX-License-Identifier: Apache-2.0
import random

import pytest

from prosparse.evaluation.harness import Item
from prosparse.evaluation.paired import Z_95, changed_answers, differences, pair
from prosparse.records.evaluation import Column


def items(values, **told) -> list[Item]:
    return [Item(str(n), float(value), 1.0, dict(told)) for n, value in enumerate(values)]


def one(here, there):
    (found,) = differences("b", "a", {"t": items(here)}, {"t": items(there)}, ())
    return found


def test_a_difference_by_hand():
    found = one([1] * 12 + [0] * 88, [1] * 2 + [0] * 5 + [0] * 88 + [1] * 5)
    assert (found.num_items, found.num_better, found.num_worse) == (100, 10, 5)
    assert found.difference == pytest.approx(0.05)
    center, half = 5 / 102, Z_95 * ((16 - 25 / 102) ** 0.5) / 102
    assert found.low == pytest.approx(center - half)
    assert found.high == pytest.approx(center + half)


def test_no_difference_seen_is_not_known_to_be_none():
    found = one([1, 0] * 5, [1, 0] * 5)
    assert found.difference == 0
    assert found.low < -0.1
    assert found.high > 0.1


def test_items_are_paired_by_their_id_and_others_left_out():
    here = items([1, 1, 0])
    there = [Item("2", 1.0, 1.0, {}), Item("0", 0.0, 1.0, {}), Item("9", 1.0, 1.0, {})]
    found = pair(here, there)
    assert (found.num_items, found.num_better, found.num_worse) == (2, 1, 1)


def test_what_is_not_right_or_wrong_has_no_pairs():
    assert pair(items([-12.5]), items([-11.0])) is None


def test_a_column_is_the_mean_of_its_tasks():
    here = {"x": items([1] * 10), "y": items([0] * 40)}
    there = {"x": items([0] * 10), "y": items([0] * 40)}
    columns = [Column("both", ("x", "y")), Column("more", ("x", "z")), Column("X", ("x",))]
    found = {d.name: d for d in differences("b", "a", here, there, columns)}
    assert set(found) == {"x", "y", "both"}
    assert found["both"].difference == pytest.approx(0.5)
    assert found["both"].num_items == 50
    assert found["both"].high - found["both"].low < found["x"].high - found["x"].low


def test_intervals_hold_what_they_should_about_as_often_as_they_say():
    draw = random.Random(0)
    hits = 0
    for _ in range(400):
        pairs = [(draw.random() < 0.5, draw.random()) for _ in range(60)]
        there = [int(right) for right, _ in pairs]
        here = [int(right if luck > 0.2 else luck < 0.15) for right, luck in pairs]
        found = one(here, there)
        truth = 0.15 - 0.2 * 0.5  # where luck decides, 0.15 come out right of the 0.1 that were
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / 400 <= 0.99


def test_changed_answers_have_their_margins():
    here = items([1, 1], chosen=1, margin=0.01)
    there = items([1, 0], chosen=1, margin=0.2)
    there[1].told.update(chosen=0, margin=0.002)
    (found,) = changed_answers("sparse", "dense", {"t": here}, {"t": there})
    assert (found.item, found.answer, found.other_answer) == ("1", 1, 0)
    assert (found.margin, found.other_margin) == (0.01, 0.002)


def test_generated_answers_have_no_margin():
    assert changed_answers("b", "a", {"t": items([1], text="x")}, {"t": items([0], text="y")}) == []
