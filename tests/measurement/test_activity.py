# SPDX-License-Identifier: Apache-2.0
"""All counters of a model, against its activations kept and counted by hand."""

import dataclasses

import numpy as np
import pytest
import torch

import prosparse as ps
from prosparse.measurement.activity import ActivityMeter, pooled
from prosparse.measurement.perplexity import Windows, far_apart, measure_windows
from prosparse.model.ffn import ffns
from prosparse.records.files import read_record
from tests.measurement.activations import intermediates

CPU = torch.device("cpu")
SHORT = {
    "tokens": 512,
    "context_length": 32,
    "precision": "float32",
    "device": "cpu",
    "progress": False,
}


@pytest.fixture
def model(relu_checkpoint):
    return ps.load(relu_checkpoint)


@pytest.fixture
def ids():
    return torch.randint(257, (8, 16), generator=torch.Generator().manual_seed(0))


def watched(model, *batches) -> ActivityMeter:
    meter = ActivityMeter(ffns(model), batches[0].shape[1], CPU)
    with meter.watch(), torch.no_grad():
        for batch in batches:
            model(batch)
    return meter


def test_it_is_what_the_kept_activations_say(model, ids):
    found = watched(model, ids).summary()
    assert (found.num_tokens, found.d_ff) == (8 * 16, 48)
    for layer, x1_BSF in enumerate(intermediates(model, ids)):
        mask = (x1_BSF != 0).double()
        by_neuron = mask.mean((0, 1))
        assert found.dead[layer] == (by_neuron < 0.001).sum()
        assert found.always_on[layer] == (by_neuron > 0.999).sum()
        assert found.position_active[layer][0] == pytest.approx(mask[:, 0].mean().item())
        assert found.position_active[layer][-1] == pytest.approx(mask[:, 8:].mean().item())
        pairs = mask.view(8, 8, 2, 48).amax(2).mean().item()
        assert found.span_union[layer][1] == pytest.approx(pairs)
        assert found.batch_union[layer][3] == pytest.approx(mask.amax(0).mean().item())
        assert sum(found.magnitude_histogram[layer]) == mask.sum()


def test_batches_change_nothing(model, ids):
    whole = watched(model, ids).summary()
    parts = watched(model, ids[:3], ids[3:4], ids[4:]).summary()
    assert dataclasses.replace(parts, neighbor_jaccard=()) == dataclasses.replace(
        whole, neighbor_jaccard=()
    )
    assert parts.neighbor_jaccard == pytest.approx(whole.neighbor_jaccard, abs=1e-12)


def test_a_family_that_flattens_its_tokens_counts_the_same(model, ids):
    meter = ActivityMeter(ffns(model), 16, CPU)
    for layer, x1_BSF in enumerate(intermediates(model, ids)):
        meter._observe(layer, x1_BSF.flatten(0, 1))
    assert meter.summary() == watched(model, ids).summary()


def test_pooled_data_sets_are_one(model, ids):
    apart = pooled([watched(model, ids[:4]), watched(model, ids[4:])])
    whole = watched(model, ids).summary()
    assert apart is not None
    assert apart.neuron_histogram == whole.neuron_histogram
    assert apart.position_active == whole.position_active
    assert apart.batch_sizes == (1, 2, 4)  # no group of eight: it would span both


def test_layers_of_different_widths_are_refused(model):
    narrow = torch.nn.Linear(24, 32, bias=False)
    model.model.layers[1].mlp.down_proj = narrow
    with pytest.raises(ps.UserError, match=r"found \[24, 48\] neurons"):
        ActivityMeter(ffns(model), 16, CPU)


@pytest.mark.parametrize("num_windows", [1, 2, 31, 32, 33, 64, 100])
def test_windows_that_follow_each_other_are_far_apart(num_windows):
    order = far_apart(num_windows)
    assert sorted(order.tolist()) == list(range(num_windows))
    steps = order.diff()[order.diff() > 0]
    assert (steps == -(-num_windows // 32)).all()


def test_losses_come_back_in_the_order_of_their_windows(model):
    ids = torch.randint(257, (70, 8), generator=torch.Generator().manual_seed(1))
    windows = Windows("noise", "x", ids)
    meter = ActivityMeter(ffns(model), 8, CPU)
    plain = measure_windows(model, windows, precision="float32")
    counted = measure_windows(model, windows, precision="float32", activity=meter)
    torch.testing.assert_close(counted.loss_W, plain.loss_W, rtol=1e-6, atol=0)
    assert counted.layer_sparsity == pytest.approx(plain.layer_sparsity, abs=1e-12)


def test_the_record_and_the_file_of_every_neuron(relu_checkpoint, texts, tmp_path):
    record = ps.measure(relu_checkpoint, texts, detail=True, out=tmp_path / "out", **SHORT)
    assert read_record(tmp_path / "out") == record
    assert record.activity is not None
    assert record.activity.num_tokens == sum(m.activity.num_tokens for m in record.data)
    for measure in record.data:
        one_token = [union[0] for union in measure.activity.span_union]
        assert [1 - share for share in one_token] == pytest.approx(measure.layer_sparsity)
    with np.load(tmp_path / "out" / "neurons.npz") as neurons:
        assert neurons["data"].tolist() == list(texts)
        shares = neurons["active"].sum((0, 2)) / (48 * neurons["num_tokens"].sum())
    assert (1 - shares).tolist() == pytest.approx(record.layer_sparsity)


def test_without_detail_nothing_of_it_is_written(relu_checkpoint, texts, tmp_path):
    record = ps.measure(relu_checkpoint, texts, out=tmp_path / "out", **SHORT)
    assert record.activity is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["record.json"]
