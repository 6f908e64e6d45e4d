# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.ops import MAX_TOKENS
from prosparse.serving import live
from tests.kernels.cases import random_weights


def half_idle(num_matrices=3) -> FFNWeights:
    """An FFN of 8 neurons: of a positive input four gates are positive, and the ups of two are zero."""
    gate = torch.ones(8, 4)
    gate[4:] = -1
    up = torch.ones(8, 4)
    up[:2] = 0
    return FFNWeights(gate, up if num_matrices == 3 else None, torch.ones(8, 4))


def test_zeros_of_the_intermediate_and_rows_that_nobody_needs():
    sparsity, skipped = live.zeros(torch.ones(2, 4), half_idle())
    assert sparsity == pytest.approx(6 / 8)  # an up of zero gives a zero, too
    assert skipped == pytest.approx(1 / 2 * 2 / 3)  # but its row was read


def test_the_gate_of_a_plain_ffn_is_half_of_it():
    assert live.zeros(torch.ones(1, 4), half_idle(2)) == pytest.approx((1 / 2, 1 / 4))


def test_what_one_token_needs_is_read_for_all():
    x = torch.ones(2, 4)
    x[1] = -1  # needs the other half
    _, skipped = live.zeros(x, half_idle())
    assert skipped == 0


@pytest.fixture
def counting():
    prometheus = pytest.importorskip("prometheus_client")
    registry = prometheus.CollectorRegistry()
    return live.LiveSparsity(registry), registry.get_sample_value


def test_calls_are_counted_and_one_in_many_is_sampled(counting):
    counts, value = counting
    asked = []

    def weights():
        asked.append(None)
        return half_idle()

    for _ in range(2 * live.SAMPLE_EVERY):
        counts.note(torch.ones(1, 4), True, weights)
    assert len(asked) == 2
    assert value("prosparse_ffn_calls_total", {"path": "sparse"}) == 2 * live.SAMPLE_EVERY
    assert value("prosparse_ffn_calls_total", {"path": "dense"}) == 0
    assert value("prosparse_sparsity") == pytest.approx(6 / 8)
    assert value("prosparse_weights_skipped") == pytest.approx(1 / 3)


def test_a_dense_call_reads_everything(counting):
    counts, value = counting
    for _ in range(live.SAMPLE_EVERY):
        counts.note(torch.ones(MAX_TOKENS + 1, 4), False, half_idle)
    assert value("prosparse_sparsity") == pytest.approx(6 / 8)
    assert value("prosparse_weights_skipped") == 0


def test_every_layer_has_its_turn():
    """Sampling by a fixed count must not look at one layer again and again."""
    for num_layers in (12, 24, 30, 32, 40, 60, 80):
        sampled = {call % num_layers for call in range(0, 97 * num_layers, live.SAMPLE_EVERY)}
        assert len(sampled) == num_layers


def test_the_sample_is_of_real_weights(counting):
    counts, value = counting
    weights = random_weights(32, 56, threshold=0.5)
    for _ in range(live.SAMPLE_EVERY):
        counts.note(torch.randn(3, 32), True, lambda: weights)
    assert 0.3 < value("prosparse_sparsity") < 0.9
