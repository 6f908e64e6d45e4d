# SPDX-License-Identifier: Apache-2.0
"""Losses of windows, their standard error, and the perplexity they make."""

import math
import statistics

import pytest
import torch

import prosparse as ps
from prosparse.measurement.perplexity import (
    WindowMeasure,
    Windows,
    forward_dtype,
    mean_and_stderr,
    measure_windows,
)


@pytest.fixture
def model(relu_checkpoint):
    return ps.load(relu_checkpoint)


@pytest.fixture
def windows():
    ids = torch.randint(257, (5, 24), generator=torch.Generator().manual_seed(1))
    return Windows("noise", "noise.jsonl", ids)


@torch.no_grad()
def losses_by_hand(model, windows) -> list[float]:
    """Return each window's mean negative log-likelihood, token by token."""
    losses = []
    for ids in windows.ids_WS:
        logs = model(ids[None]).logits[0].double().log_softmax(-1)
        nll = [-logs[place, token].item() for place, token in enumerate(ids[1:].tolist())]
        losses.append(sum(nll) / len(nll))
    return losses


def with_losses(*losses: float) -> WindowMeasure:
    ids = torch.zeros(len(losses), 8, dtype=torch.int64)
    return WindowMeasure(
        Windows("x", "x.jsonl", ids), torch.tensor(losses, dtype=torch.float64), (0.25, 0.75)
    )


def test_losses_are_those_counted_by_hand(model, windows):
    found = measure_windows(model, windows, precision="float32")
    by_hand = losses_by_hand(model, windows)
    assert found.loss_W.tolist() == pytest.approx(by_hand, rel=1e-6)
    summary = found.summary()
    assert summary.loss == pytest.approx(statistics.mean(by_hand), rel=1e-6)
    assert summary.perplexity == pytest.approx(math.exp(statistics.mean(by_hand)), rel=1e-5)
    assert (summary.num_tokens, summary.num_predictions) == (5 * 24, 5 * 23)
    assert (summary.data, summary.source) == ("noise", "noise.jsonl")


def test_batches_change_nothing(model, windows):
    long = Windows("long", "x", windows.ids_WS.repeat(40, 1))  # 200 windows: three batches
    found = measure_windows(model, long, precision="float32")
    assert len(found.loss_W) == 200
    assert found.loss_W.tolist() == pytest.approx(losses_by_hand(model, windows) * 40, rel=1e-6)


def test_the_standard_error_is_over_windows():
    summary = with_losses(1.0, 2.0, 4.0).summary()
    stderr = statistics.stdev([1.0, 2.0, 4.0]) / math.sqrt(3)
    assert summary.loss == pytest.approx(7 / 3)
    assert summary.loss_stderr == pytest.approx(stderr)
    assert summary.perplexity_stderr == pytest.approx(math.exp(7 / 3) * stderr)
    assert summary.sparsity == 0.5
    assert summary.layer_sparsity == (0.25, 0.75)


def test_one_window_has_no_standard_error():
    mean, stderr = mean_and_stderr(torch.tensor([3.0], dtype=torch.float64))
    assert mean == 3.0
    assert math.isnan(stderr)


@pytest.mark.parametrize("loss", [701.0, 1e6, math.inf])
def test_a_perplexity_beyond_all_numbers_is_infinite(loss):
    assert with_losses(loss, loss).summary().perplexity == math.inf


def test_a_loss_that_is_no_number_makes_no_perplexity():
    assert math.isnan(with_losses(math.nan, 1.0).summary().perplexity)


@pytest.mark.parametrize("is_training", [True, False])
def test_the_mode_of_the_model_comes_back(is_training, model, windows):
    model.train(is_training)
    modes = []
    model.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    measure_windows(model, windows, precision="float32")
    assert modes == [False]
    assert all(module.training == is_training for module in model.modules())


def test_the_mode_comes_back_after_a_failure_too(model, windows):
    model.train()
    broken = Windows("broken", "x", windows.ids_WS + 1000)
    with pytest.raises(IndexError):
        measure_windows(model, broken, precision="float32")
    assert model.training
    assert not model.model.layers[0].mlp.down_proj._forward_pre_hooks


def test_no_gradient_is_kept(model, windows):
    assert not measure_windows(model, windows, precision="float32").loss_W.requires_grad


def test_bfloat16_rounds_the_products_only(model, windows):
    exact = measure_windows(model, windows, precision="float32").loss_W
    rounded = measure_windows(model, windows, precision="bfloat16").loss_W
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.02, atol=0)
    assert rounded.dtype == torch.float64
    assert model.dtype == torch.float32


@pytest.mark.parametrize(
    ("weights", "precision", "expected"),
    [
        (torch.float32, "float32", "float32"),
        (torch.float32, "bfloat16", "bfloat16"),
        (torch.bfloat16, "float32", "bfloat16"),
        (torch.float16, "bfloat16", "bfloat16"),
        (torch.float16, "float32", "float16"),
    ],
)
def test_the_dtype_of_the_products(weights, precision, expected, model):
    model.to(weights)
    assert forward_dtype(model, precision) == expected
    product = model.model.layers[0].mlp.up_proj
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        assert str(product(torch.ones(1, 32, dtype=weights)).dtype) == f"torch.{expected}"
