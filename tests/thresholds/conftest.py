# SPDX-License-Identifier: Apache-2.0
"""A tiny ReLU model and windows of two data sets."""

import pytest
import torch

import prosparse as ps
from prosparse.measurement.passes import Passes
from prosparse.measurement.perplexity import Windows
from prosparse.thresholds.judge import Judge


@pytest.fixture
def model(relu_checkpoint):
    return ps.load(relu_checkpoint)


@pytest.fixture
def held_out():
    ids = torch.randint(1, 257, (12, 16), generator=torch.Generator().manual_seed(2))
    return [Windows("a", "a.jsonl", ids[:8]), Windows("b", "b.jsonl", ids[8:])]


@pytest.fixture
def passes(model, held_out):
    return Passes(model, held_out, "float32")


@pytest.fixture
def judge(passes):
    return Judge(passes, 2, 0.01)
