# SPDX-License-Identifier: Apache-2.0
"""Thresholds of equal relative output error, against the definition written out token by token."""

import pytest
import torch

import prosparse as ps
from prosparse.measurement.cett import Calibration, Curve
from prosparse.model.ffn import ffns
from tests.measurement.activations import intermediates

ERRORS = [0.01, 0.1, 0.3, 0.7]


@pytest.fixture(params=["checkpoint", "relu_checkpoint"])
def model(request):
    return ps.load(request.getfixturevalue(request.param))


@pytest.fixture
def batches():
    ids = torch.randint(1, 257, (6, 16), generator=torch.Generator().manual_seed(3))
    return [ids[:4], ids[4:]]


def errors_by_hand(model, batches, thresholds) -> list[float]:
    """Return CETT of each layer, in float64, a token and a neuron at a time."""
    shares: list[list[float]] = [[] for _ in thresholds]
    for batch in batches:
        for layer, x1_BSF in enumerate(intermediates(model, batch)):
            down = model.model.layers[layer].mlp.down_proj.weight.detach()
            norms = down.norm(dim=0)  # not one by one: a last digit would decide a tie
            for x1 in x1_BSF.flatten(0, 1):
                whole, weak = torch.zeros(2, len(down), dtype=torch.float64)
                for j, (entry, norm) in enumerate(zip(x1, norms, strict=True)):
                    part = entry.double() * down[:, j].double()
                    whole += part
                    if entry.abs() * norm < thresholds[layer]:
                        weak += part
                shares[layer].append((weak.norm() / whole.norm()).item())
    return [sum(layer) / len(layer) for layer in shares]


@pytest.mark.parametrize("error", ERRORS)
def test_the_error_is_the_definitions_and_within_the_wanted_one(model, batches, error):
    calibration = Calibration(model, ffns(model), batches, "float32")
    thresholds, errors = calibration.thresholds(error)
    assert errors == pytest.approx(errors_by_hand(model, batches, thresholds), rel=1e-6, abs=1e-9)
    assert all(found <= error for found in errors)


@pytest.mark.parametrize("error", ERRORS)
def test_no_much_larger_threshold_would_do(model, batches, error):
    calibration = Calibration(model, ffns(model), batches, "float32")
    thresholds, _ = calibration.thresholds(error)
    beyond = errors_by_hand(model, batches, [1.1 * t + 1e-4 for t in thresholds])
    assert all(found > error for found in beyond)


def test_a_tie_is_kept_as_it_is_when_the_model_runs(model, batches):
    # The curve's thresholds are contributions of the first window: every one of them is a tie.
    curve = Calibration(model, ffns(model), batches, "float32").curve
    for point in (3, 17, 30):
        by_hand = errors_by_hand(model, batches, curve.thresholds_LG[:, point].tolist())
        assert curve.errors_LG[:, point].tolist() == pytest.approx(by_hand, rel=1e-6, abs=1e-9)


def test_thresholds_rise_with_the_error(model, batches):
    calibration = Calibration(model, ffns(model), batches, "float32")
    found = [calibration.thresholds(error)[0] for error in (0.0, *ERRORS, 1.0)]
    for layer in zip(*found, strict=True):
        assert list(layer) == sorted(layer)


def test_batches_change_nothing(model, batches):
    together = Calibration(model, ffns(model), [torch.cat(batches)], "float32")
    apart = Calibration(model, ffns(model), torch.cat(batches).split(1), "float32")
    for mine, theirs in zip(together.thresholds(0.2), apart.thresholds(0.2), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_a_layer_without_output_makes_no_error(model, batches):
    model.model.layers[0].mlp.up_proj.weight.data.zero_()
    thresholds, errors = Calibration(model, ffns(model), batches, "float32").thresholds(0.1)
    assert errors[0] == 0.0
    assert 0 < errors[1] <= 0.1
    assert all(threshold > 0 for threshold in thresholds)


def test_a_layer_of_nan_keeps_every_neuron(model, batches):
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    thresholds, _ = Calibration(model, ffns(model), batches, "float32").thresholds(0.1)
    assert thresholds[1] == 0.0


def test_the_mode_comes_back_and_no_hook_stays(model, batches):
    model.train()
    Calibration(model, ffns(model), batches, "float32").thresholds(0.1)
    assert model.training
    assert not any(ffn.down._forward_pre_hooks for ffn in ffns(model))


def test_a_bracket_ends_before_the_first_error_that_is_beyond():
    curve = Curve(
        torch.tensor([[0.0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]),
        torch.tensor([[0.0, 0.125, 0.5, 0.25], [0, 0.125, 0.125, 0.25], [0, 0.75, 1, 1]]).double(),
    )
    low, high, error = curve.bracket(0.25)
    assert low.tolist() == [1, 3, 0]  # the first falls back within after it was beyond
    assert high.tolist() == [2, 3, 1]
    assert error.tolist() == [0.125, 0.25, 0.0]
