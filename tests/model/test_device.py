# SPDX-License-Identifier: Apache-2.0
"""The device and the precision a run gets, and what it says when it cannot have them."""

import pytest
import torch

from prosparse.errors import UserError
from prosparse.model import device
from prosparse.model.device import (
    autocast,
    choose_device,
    device_name,
    forward_precision,
    has_fast_bfloat16,
    provenance,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_gpu", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_the_gpu_when_there_is_one(has_gpu, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert choose_device().type == expected


def test_a_named_device():
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["toaster", "", "cuda:99", "meta", "cpu:x", "hpu", "0"])
def test_a_device_that_cannot_be_used_is_one_sentence(name):
    with pytest.raises(UserError, match=f"^Device '{name}' cannot be used here: .+\\.$") as caught:
        choose_device(name)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_names():
    assert device_name("cpu")
    assert device_name("cpu") == device_name(CPU)


@pytest.mark.parametrize(("is_fast", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_is_bfloat16_where_it_is_fast(is_fast, expected, monkeypatch):
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda where: is_fast)
    assert forward_precision("auto", CPU) == expected
    assert forward_precision("float32", CPU) == "float32"
    assert forward_precision("bfloat16", CPU) == "bfloat16"


def test_another_precision_is_refused():
    with pytest.raises(UserError, match="must be auto, float32 or bfloat16; found 'float16'"):
        forward_precision("float16", CPU)


def test_fast_bfloat16_is_a_yes_or_no():
    assert has_fast_bfloat16(CPU) in (True, False)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_autocast_changes_matrix_products_only(precision):
    a = torch.ones(2, 2)
    with autocast(precision, CPU):
        assert (a @ a).dtype == getattr(torch, precision)
    assert (a @ a).dtype == torch.float32


def test_provenance_names_the_device():
    found = provenance("cpu", seed=5)
    assert (found.device, found.num_threads) == (device_name("cpu"), torch.get_num_threads())
    assert found.seed == 5
