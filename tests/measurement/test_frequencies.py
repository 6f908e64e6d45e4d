# SPDX-License-Identifier: Apache-2.0
"""How often whole numbers occur."""

import pytest
import torch

from prosparse.measurement.frequencies import frequencies


@pytest.mark.parametrize("num_values", [1, 50, 256, 6300])
def test_frequencies_of_whole_numbers(num_values):
    values = torch.arange(num_values).repeat(3)
    assert frequencies(values, num_values).tolist() == [3] * num_values
