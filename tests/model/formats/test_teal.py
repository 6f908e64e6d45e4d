# SPDX-License-Identifier: Apache-2.0
"""TEAL's histograms become thresholds on the inputs of an FFN, which stay with the checkpoint."""

from __future__ import annotations

import copy
import csv

import pytest
import torch
import torch.nn.functional as F

import prosparse as ps
from prosparse.errors import UserError
from prosparse.measurement.meter import SparsityMeter
from prosparse.model.checkpoint import save
from prosparse.model.ffn import ffns
from prosparse.model.formats.teal import sparsify_inputs
from prosparse.model.input_thresholds import KEY
from prosparse.model.quantizing import quantize_ffns
from tests.conftest import byte_tokenizer, tiny_llama
from tests.model.tiny import tiny_model

IDS = torch.arange(3, 60)[None]


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def uniform(width):
    """The histogram of numbers spread evenly over [-width, width]: half of them are below width / 2."""
    edges = torch.linspace(-width, width, 10_001)
    return torch.full((10_000,), 7.0), (edges[:-1] + edges[1:]) / 2


@pytest.fixture
def histograms(tmp_path):
    """Layer l: what enters gate and up lies within 1 + l, what enters down within 0.1 * (1 + l)."""
    for layer in range(2):
        folder = tmp_path / f"histograms/layer-{layer}/mlp"
        folder.mkdir(parents=True)
        h1, h1_centers = uniform(1.0 + layer)
        h2, h2_centers = uniform(0.1 * (1 + layer))
        torch.save(
            {"h1": h1, "h1_centers": h1_centers, "h2": h2, "h2_centers": h2_centers},
            folder / "histograms.pt",
        )
    return tmp_path / "histograms"


@pytest.fixture
def lookup(tmp_path):
    columns = ["Effective Sparsity", "q", "gate", "up", "down"]
    rows = [[0.1, 0, 0, 0, 0.3], [0.5, 0.9, 0.25, 0.5, 0.75], [0.9, 1, 1, 1, 1]]
    for layer in range(2):
        path = tmp_path / f"lookup/layer-{layer}/results.csv"
        path.parent.mkdir(parents=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
    return tmp_path / "lookup"


def test_thresholds_are_quantiles(histograms, lookup):
    model = tiny_llama()
    sparsify_inputs(model, histograms, sparsity=0.5)
    by_quantile = {"gate": [0.5, 1.0], "up": [0.5, 1.0], "down": [0.05, 0.1]}
    for name, expected in by_quantile.items():
        assert getattr(model.config, KEY)[name] == pytest.approx(expected, abs=1e-3)
    model = tiny_llama()
    sparsify_inputs(model, histograms, sparsity=0.45, lookup=lookup)
    by_search = {"gate": [0.25, 0.5], "up": [0.5, 1.0], "down": [0.075, 0.15]}
    for name, expected in by_search.items():
        assert getattr(model.config, KEY)[name] == pytest.approx(expected, abs=1e-3)


def test_what_enters_is_cut_and_so_it_is_after_loading(histograms, tmp_path):
    model, dense = tiny_llama(), tiny_llama()
    sparsify_inputs(model, histograms, sparsity=0.5)
    thresholds = getattr(model.config, KEY)

    def cut(x, name, layer):
        return torch.where(x.abs() > thresholds[name][layer], x, 0)

    for layer, block in enumerate(dense.model.layers):
        mlp = block.mlp

        def forward(x, mlp=mlp, layer=layer):
            x1 = F.silu(mlp.gate_proj(cut(x, "gate", layer))) * mlp.up_proj(cut(x, "up", layer))
            return mlp.down_proj(cut(x1, "down", layer))

        mlp.forward = forward
    found = logits(model)
    torch.testing.assert_close(found, logits(dense))
    assert not torch.allclose(found, logits(tiny_llama()), atol=1e-3)
    save(model, byte_tokenizer(), tmp_path, base="dense")
    loaded = ps.load(tmp_path)
    assert torch.equal(logits(loaded), found)
    assert "Load it with prosparse" in (tmp_path / "README.md").read_text()
    meter = SparsityMeter(ffns(loaded), loaded.device)
    with meter.watch():
        logits(loaded)
    assert all(0.05 < sparsity < 1 for sparsity in meter.layer_sparsity())


def test_nothing_is_cut_at_zero(histograms):
    model = tiny_llama()
    sparsify_inputs(model, histograms, sparsity=0)
    assert torch.equal(logits(model), logits(tiny_llama()))


def test_ties_are_cut():
    model = tiny_llama()
    setattr(model.config, KEY, {name: [0.5, 0.5] for name in ("gate", "up", "down")})
    model.post_init()
    model.post_init()  # no second hook
    down = ffns(model)[0].down
    assert len(down._forward_pre_hooks) == 1
    (hook,) = down._forward_pre_hooks.values()
    (found,) = hook(down, (torch.tensor([0.5, -0.5, 0.51, -2]),))
    assert found.tolist() == pytest.approx([0, 0, 0.51, -2])


def test_the_sparse_path_refuses_it(histograms):
    model = tiny_llama(hidden_act="relu")
    sparsify_inputs(model, histograms, sparsity=0.5)
    with pytest.raises(UserError, match="skips columns of weights"):
        ps.accelerate(model)


def test_quantized_it_still_cuts_also_after_loading(histograms, tmp_path):
    model = tiny_llama()
    sparsify_inputs(model, histograms, sparsity=0.5)
    rounded = copy.deepcopy(model)
    quantize_ffns(model, 8, group_size=32)
    for ffn, twin in zip(ffns(model), ffns(rounded), strict=True):
        for name, weight in ffn.weights().items():
            twin.module.get_submodule(name).weight.data = weight.contiguous()
    torch.testing.assert_close(logits(model), logits(rounded))
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(ps.load(tmp_path)), logits(model))


def refusal(histograms, model=None, **kwargs):
    with pytest.raises(UserError) as error:
        sparsify_inputs(model or tiny_llama(), histograms, **{"sparsity": 0.5, **kwargs})
    return str(error.value)


def test_what_does_not_fit(histograms, lookup, tmp_path):
    assert "sparsity must be in [0, 1); found 1" in refusal(histograms, sparsity=1)
    assert "no " in refusal(tmp_path / "nowhere")
    assert "'opt' is not a family" in refusal(histograms, tiny_model("opt"))
    assert "give TEAL's folder 'lookup'" in refusal(histograms, lookup=tmp_path)
    (lookup / "layer-1/results.csv").write_text("gate,up\n1,2\n")
    assert "layer-1/results.csv is none of TEAL's" in refusal(histograms, lookup=lookup)
    path = histograms / "layer-0/mlp/histograms.pt"
    torch.save({"h1": torch.ones(3)}, path)
    assert "is none of TEAL's: it must hold" in refusal(histograms)
    path.write_bytes(b"no tensors")
    assert "cannot be read as tensors" in refusal(histograms)
    model = tiny_llama()
    setattr(model.config, KEY, {"gate": [0.1]})
    assert "cut already" in refusal(histograms, model)
    with pytest.raises(UserError, match="must hold a list of 2 numbers"):
        model.post_init()
