# SPDX-License-Identifier: Apache-2.0
"""Pairs: what is on disk is what the model was given and did, and nothing is written in vain."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prosparse as ps
from prosparse.data.windows import each_window
from prosparse.errors import UserError
from prosparse.model.ffn import ffns
from prosparse.model.tap import tap
from prosparse.predictors import collect as module
from prosparse.predictors.collect import collect
from prosparse.predictors.pairs import (
    Layout,
    Pairs,
    PairWriter,
    decode_shares,
    encode_shares,
    refuse_too_large,
)


def arguments(relu_checkpoint, sources, folder, **changes):
    settings = {
        "name": "tiny",
        "rows": 96,
        "reads": "ffn-input",
        "context_length": 32,
        "precision": "float32",
        "progress": False,
    }
    model = ps.load(relu_checkpoint, dtype=torch.float32)
    return (model, ps.load_tokenizer(relu_checkpoint), sources, folder), settings | changes


def test_rows_are_what_the_model_was_given_and_did(relu_checkpoint, sources, tmp_path):
    only = {"prose": sources["prose"]}
    given_, settings = arguments(relu_checkpoint, only, tmp_path)
    pairs = collect(*given_, **settings)
    model, tokenizer = given_[0], given_[1]
    window = next(module._in_turn(only, tokenizer, 32, 96))
    expected = {}
    with torch.no_grad(), tap(ffns(model), lambda layer, x1: expected.__setitem__(layer, x1)):
        hidden = model(window[None], output_hidden_states=True).hidden_states
    assert len(hidden) == 3
    for layer in (0, 1):
        active = pairs.shares(layer, train=True)[:32] != 0
        assert torch.equal(active, expected[layer][0] != 0)
        x = pairs.inputs(layer, train=True)[:32].float()
        gate = model.model.layers[layer].mlp.gate_proj
        agree = ((x @ gate.weight.T > 0) == active).float().mean()
        assert agree > 0.995  # inputs are rounded to float16


def test_kept_values_are_those_of_the_first_validation_rows(collected):
    _, pairs = collected
    for layer in (0, 1):
        values = pairs.values(layer)
        assert values.shape == (pairs.layout.num_validation, 48) == (40, 48)
        assert torch.equal(values != 0, pairs.shares(layer, train=False) != 0)


def test_every_data_set_is_in_the_validation_rows(sources, relu_checkpoint):
    tokenizer = ps.load_tokenizer(relu_checkpoint)
    turns = list(module._in_turn(sources, tokenizer, 32, 256))[:4]
    first = [module._spread(s, n, tokenizer, 32, 4)[0] for n, s in sources.items()]
    assert torch.equal(turns[0], first[0])
    assert torch.equal(turns[1], first[1])


def test_windows_are_from_all_over_and_in_order(sources, relu_checkpoint):
    tokenizer = ps.load_tokenizer(relu_checkpoint)
    source = sources["prose"]
    every = list(each_window(source, "prose", tokenizer, 32, 16 * 10 * 32))
    places = [
        next(place for place, other in enumerate(every) if torch.equal(other, window))
        for window in module._spread(source, "prose", tokenizer, 32, 10)
    ]
    assert len(set(places)) == 10
    assert places == sorted(places)
    assert places[0] < len(every) / 3
    assert places[-1] > len(every) * 2 / 3


def test_shares_by_hand():
    down = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.01]])
    x1 = torch.tensor([[10.0, 0.1, 0.0], [0.0, -5.0, 300.0], [0.0, 0.0, 0.0]])
    # outputs (10, 0.2), (0, -7), 0; parts 10, 0.2 and 10, 3
    shares = module.output_shares(x1, x1 @ down.T, down.norm(dim=0))
    whole = (10**2 + 0.2**2) ** 0.5
    expected = torch.tensor([[10 / whole, 0.2 / whole, 0], [0, 10 / 7, 3 / 7], [0, 0, 0]])
    assert torch.allclose(shares, expected)


def test_shares_on_disk_are_those_of_the_kept_values(collected):
    model, pairs = collected
    for ffn in ffns(model):
        x1 = pairs.values(ffn.layer)
        down = ffn.weights()["down_proj"].detach()
        expected = module.output_shares(x1, x1 @ down.T, down.norm(dim=0))
        found = decode_shares(pairs.shares(ffn.layer, train=False))
        assert torch.allclose(found, expected, rtol=0.065)


@given(st.floats(2**-27, 15.0))
def test_a_share_comes_back_within_six_percent(share):
    codes = encode_shares(torch.tensor([share, 0.0]))
    found = decode_shares(codes)
    assert found[0].item() == pytest.approx(share, rel=0.0626)
    assert found[1] == 0


def test_shares_beyond_the_scale_stay_active():
    codes = encode_shares(torch.tensor([1e-30, 1e9, torch.inf, torch.nan]))
    assert codes.tolist() == [1, 255, 255, 255]


def test_residuals_have_a_root_mean_square_of_one(relu_checkpoint, sources, tmp_path):
    given_, settings = arguments(relu_checkpoint, sources, tmp_path, reads="residual")
    pairs = collect(*given_, **settings)
    x = pairs.inputs(1, train=True).float()
    assert x.square().mean(dim=1).sqrt() == pytest.approx(torch.ones(len(x)), rel=2e-3)
    norm = given_[0].model.layers[1].post_attention_layernorm
    after, _ = arguments(relu_checkpoint, sources, tmp_path / "after")
    other = collect(*after, **{**settings, "reads": "ffn-input"})
    with torch.no_grad():
        assert torch.allclose(norm(x), other.inputs(1, train=True).float(), atol=5e-3)


def test_the_size_is_told_right(collected):
    _, pairs = collected
    found = sum(file.stat().st_size for file in pairs._folder.iterdir() if file.suffix != ".json")
    assert found == pairs.layout.num_bytes


def test_more_than_the_disk_holds_is_refused_before_anything_is_written(tmp_path):
    layout = Layout(10**12, 32, 4096, 11008, "ffn-input", "")
    with pytest.raises(UserError, match=r"take .* GB .* fewer --rows"):
        refuse_too_large(layout, tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_the_same_pairs_are_collected_once(relu_checkpoint, sources, tmp_path, monkeypatch):
    given_, settings = arguments(relu_checkpoint, sources, tmp_path)
    collect(*given_, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(module, "PairWriter", None)
        assert isinstance(collect(*given_, **settings), Pairs)
    meta = tmp_path / "meta.json"
    assert json.loads(meta.read_text())["rows"] == 96
    meta.unlink()  # as after a kill
    written = []
    monkeypatch.setattr(
        PairWriter,
        "finish",
        lambda self, original=PairWriter.finish: (written.append(1), original(self)),
    )
    collect(*given_, **settings)
    assert written


def test_too_little_text_is_one_sentence(relu_checkpoint, sources, tmp_path):
    given_, settings = arguments(relu_checkpoint, sources, tmp_path, rows=10**6)
    with pytest.raises(UserError, match=r"fill \d+ rows and 1000000 are wanted"):
        collect(*given_, **settings)
    shutil.rmtree(tmp_path)
