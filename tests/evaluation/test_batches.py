# SPDX-License-Identifier: Apache-2.0
from prosparse.evaluation.batches import Batches
from prosparse.evaluation.suite import load_suite


def test_each_kind_of_answer_has_its_own_size():
    sizes = {task.name: Batches(scoring=8, generation=64).of(task) for task in load_suite().tasks}
    assert sizes["piqa"] == 8
    assert sizes["gsm8k"] == 64
    assert sizes["wikitext2"] == 1
    assert set(sizes.values()) == {1, 8, 64}
