# SPDX-License-Identifier: Apache-2.0
"""Huge pages are asked for without changing what lies on them."""

import sys

import pytest
import torch
from torch import nn

from prosparse.kernels.cpu.memory import HUGE_PAGE, ask_for_huge_pages, move_onto_huge_pages, read


@pytest.mark.parametrize("size", [0, 3, HUGE_PAGE // 4, 5 * HUGE_PAGE // 2])
def test_values_and_address_stay(size):
    tensor = torch.randn(size)
    before, address = tensor.clone(), tensor.data_ptr()
    ask_for_huge_pages(tensor)
    assert tensor.data_ptr() == address
    assert torch.equal(tensor, before)


@pytest.mark.skipif(sys.platform != "linux", reason="moves on Linux only")
def test_small_tensors_move_together_and_stay_what_they_are():
    rows, turned = nn.Parameter(torch.randn(7, 33)), torch.randn(50, 9).bfloat16().T
    packed, large = torch.randint(256, (5, 3), dtype=torch.uint8), torch.randn(5 * HUGE_PAGE // 2)
    tensors = [rows, turned, packed, large, rows]
    before = [(t.detach().clone(), t.stride(), t.data_ptr()) for t in tensors]
    move_onto_huge_pages(tensors)
    for tensor, (values, stride, _) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, values)
        assert tensor.stride() == stride
    assert large.data_ptr() == before[3][2]
    small = [rows, turned, packed]
    assert all(t.data_ptr() % 64 == 0 for t in small)
    assert len({t.data_ptr() // HUGE_PAGE for t in small}) == 1
    assert len({t.untyped_storage().data_ptr() for t in small}) == 3
    with torch.no_grad():
        rows.fill_(1)  # and nothing else
    assert torch.equal(turned, before[1][0])


@pytest.mark.parametrize("size", [1, 1000, 3_000_001])
def test_reading_changes_nothing(size):
    tensor = torch.randn(size)
    before = tensor.clone()
    read(tensor)
    assert torch.equal(tensor, before)
