# SPDX-License-Identifier: Apache-2.0
"""What measures, trains, accelerates and exports works on every published format, or says why not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import yaml

import prosparse as ps
from prosparse.data.sources import as_sources
from prosparse.errors import UserError
from prosparse.measurement.run import read_windows
from prosparse.model.relufy import activation_of
from prosparse.records.files import read_log
from tests.model.formats.cases import CASES
from tests.model.formats.published import IDS, by_hand, tensors, write

NOT_ACCELERATED = {
    "cats": "come from the magnitudes of SiLU",
    "cats off": "is SiLUActivation, which gives no zeros to skip",
    "teal": "cuts the inputs of its FFNs' projections",
}
NOT_PENALIZED = {"cats off": "keeps silu, which has no zeros", "teal": "keeps silu"}
# Every other one is a Llama, or is refused by its type.
NOT_EXPORTED = {"teal": "has inputs of projections that are cut"}


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture
def folder(name, tmp_path):
    config, shapes, _, _ = CASES[name]
    return write(tmp_path / "published", config, tensors(**shapes))


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def test_measure_counts_the_zeros_there_are(name, folder, texts):
    config, shapes, x1, _ = CASES[name]
    data = {"prose": texts["prose"]}
    record = ps.measure(
        folder, data, tokens=64, context_length=64, precision="float32", progress=False
    )
    (windows,) = read_windows(as_sources(data), ps.load_tokenizer(folder), 64, 64)
    entering: list[torch.Tensor] = []
    expected = by_hand(config, tensors(**shapes), x1, windows.ids_WS, entering)
    assert record.layer_sparsity == pytest.approx(
        [(x == 0).float().mean().item() for x in entering], abs=2e-4
    )
    loss = F.cross_entropy(expected[0, :-1], windows.ids_WS[0, 1:]).item()
    assert record.data[0].loss == pytest.approx(loss, rel=1e-4)


def test_a_training_step_moves_its_ffns_and_keeps_what_it_is(name, folder, recipe_data, tmp_path):
    recipe_data |= {"model": str(folder), "relufy": None}
    recipe_data["regularization"]["stages"] = [{"until": 1, "factor": 10.0}]
    recipe_data["training"]["save_every"] = 1
    for key in ("measure", "threshold", "sample"):
        del recipe_data[key]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_data))
    if name in NOT_PENALIZED:
        with pytest.raises(UserError, match=NOT_PENALIZED[name]):
            ps.train(path, progress=False)
        recipe_data["regularization"]["stages"][0]["factor"] = 0
        path.write_text(yaml.safe_dump(recipe_data))
    ps.train(path, overwrite=True, progress=False)
    before, after = ps.load(folder), ps.load(tmp_path / "run")
    assert activation_of(after) == activation_of(before)
    assert type(after) is type(before)
    moved = {
        key
        for (key, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert {key for key, _ in before.named_parameters() if ".mlp." in key} <= moved
    (line,) = read_log(tmp_path / "run" / "log.jsonl")
    assert line["l1"] > 0
    assert (line["sparsity"] > 0.1) == (name != "cats off")


def test_accelerated_it_writes_the_same(name, folder):
    network = ps.load(folder)
    if name in NOT_ACCELERATED:
        with pytest.raises(UserError, match=NOT_ACCELERATED[name]):
            ps.accelerate(network)
        return
    dense = ps.generate(network, "abc", max_new_tokens=12)
    with ps.accelerate(network):
        assert ps.generate(network, "abc", max_new_tokens=12, backend="sparse") == dense
    assert ps.generate(network, "abc", max_new_tokens=12) == dense


def test_exported_it_is_the_same_or_a_sentence(name, folder, tmp_path):
    pytest.importorskip("gguf")
    model_type, activation = CASES[name][3]
    out = tmp_path / "out"
    words = NOT_EXPORTED.get(name)
    if words is None and model_type != "llama":
        words = f"The exports know models of type 'llama'; this one is '{model_type}'"
    if words is None and activation.name != "silu":
        with pytest.raises(UserError, match="llama.cpp's graph of 'llama' computes SiLU"):
            ps.export(folder, to="gguf", type="f32", out=out)
    if words is not None:
        with pytest.raises(UserError, match=words):
            ps.export(folder, to="gguf", type="f32", only_prosparse=True, out=out)
        assert not out.exists()
        return
    record = ps.export(folder, to="gguf", type="f32", only_prosparse=True, out=out)
    torch.testing.assert_close(
        logits(ps.load(out / record.file)), logits(ps.load(folder)), rtol=1e-4, atol=1e-4
    )
