# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from prosparse.runtime.neuron_major import (
    is_neuron_major,
    make_neuron_major,
    make_row_major,
    rows_by_neuron,
)

D, F = 3, 5


@pytest.mark.parametrize(
    ("projection", "is_down", "already"),
    [
        (nn.Linear(D, F), False, True),
        (nn.Linear(F, D), True, False),
        (Conv1D(F, D), False, False),  # (outputs, inputs)
        (Conv1D(D, F), True, True),
    ],
    ids=["gate", "down", "c_fc", "c_proj"],
)
def test_every_neuron_is_a_row(projection, is_down, already):
    weight = projection.weight
    before, stride = weight.detach().clone(), weight.stride()
    rows = rows_by_neuron(projection, is_down=is_down).detach().clone()
    assert rows.shape == (F, D)
    assert is_neuron_major(projection, is_down=is_down) == already
    if not already:
        make_neuron_major(projection)
    assert is_neuron_major(projection, is_down=is_down)
    assert projection.weight is weight
    assert torch.equal(weight, before)
    assert torch.equal(rows_by_neuron(projection, is_down=is_down), rows)
    make_row_major(projection)
    assert weight.stride() == stride
    assert torch.equal(weight, before)
