# SPDX-License-Identifier: Apache-2.0
"""Huge pages are asked for without changing what lies on them."""

import pytest
import torch

from prosparse.kernels.cpu.memory import HUGE_PAGE, ask_for_huge_pages, read


@pytest.mark.parametrize("size", [0, 3, HUGE_PAGE // 4, 5 * HUGE_PAGE // 2])
def test_values_and_address_stay(size):
    tensor = torch.randn(size)
    before, address = tensor.clone(), tensor.data_ptr()
    ask_for_huge_pages(tensor)
    assert tensor.data_ptr() == address
    assert torch.equal(tensor, before)


@pytest.mark.parametrize("size", [1, 1000, 3_000_001])
def test_reading_changes_nothing(size):
    tensor = torch.randn(size)
    before = tensor.clone()
    read(tensor)
    assert torch.equal(tensor, before)
