# SPDX-License-Identifier: Apache-2.0
"""`ps.threshold`: a checkpoint with the chosen threshold, and the trade-off beside it."""

import dataclasses
import json

import pytest
import torch

import prosparse as ps
from prosparse.model.relufy import activation_of
from prosparse.records.files import read_record
from prosparse.records.sparsity import Activation
from prosparse.thresholds import run
from prosparse.thresholds.search import apply_threshold

IDS = torch.arange(1, 17)[None]
SHORT = {"tokens": 128, "context_length": 32, "precision": "float32", "progress": False}
ANY_COST = {"max_perplexity_increase": 1e9}


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def with_increases(monkeypatch, *increases: float) -> None:
    """Let the sweep find these perplexity increases, threshold 0 first."""
    original = run.sweep

    def sweep(model, held_out, candidates, budget, **options):
        rows = original(model, held_out, candidates, budget, **options)
        return tuple(
            dataclasses.replace(row, perplexity_increase=found, within_budget=found <= budget)
            for row, found in zip(rows, increases, strict=True)
        )

    monkeypatch.setattr(run, "sweep", sweep)


def test_the_checkpoint_is_the_swept_model(relu_checkpoint, texts, tmp_path):
    out = tmp_path / "out"
    record = ps.threshold(
        relu_checkpoint, texts, out=out, candidates=[0.2, 0.05], **ANY_COST, **SHORT
    )
    assert read_record(out) == record
    assert record.chosen == 0.2
    assert [row.threshold for row in record.candidates] == [0, 0.05, 0.2]
    assert record.chosen_candidate is record.candidates[2]
    assert (record.dtype, record.context_length) == ("float32", 32)

    config = json.loads((out / "config.json").read_text())
    assert (config["hidden_act"], config["hidden_act_param"]) == ("fatrelu", 0.2)
    swept = ps.load(relu_checkpoint)
    apply_threshold(swept, 0.2)
    loaded = ps.load(out)
    assert torch.equal(logits(loaded), logits(swept))
    assert not torch.equal(logits(loaded), logits(ps.load(relu_checkpoint)))

    # Measured again, it is what the record says.
    again = ps.measure(out, texts, **SHORT)
    assert again.sparsity == pytest.approx(record.chosen_candidate.sparsity, abs=1e-9)
    assert [m.loss for m in again.data] == pytest.approx(
        [m.loss for m in record.chosen_candidate.data], rel=1e-6
    )


def test_the_card_tells_the_cost(relu_checkpoint, texts, tmp_path):
    out = tmp_path / "out"
    record = ps.threshold(
        relu_checkpoint, texts, out=out, candidates=[0.2], base="owner/name", **ANY_COST, **SHORT
    )
    card = (out / "README.md").read_text()
    assert "Shifting the threshold to 0.2 raised activation sparsity" in card
    assert f"{record.candidates[1].sparsity:.4f}" in card
    assert "128 tokens of prose, 128 tokens of code" in card
    assert "from `owner/name`" in card
    assert record.model == "owner/name"


def test_a_curve_that_is_not_monotone(relu_checkpoint, texts, tmp_path, monkeypatch):
    with_increases(monkeypatch, 0.0, 0.02, 0.005, 0.03)
    record = ps.threshold(
        relu_checkpoint, texts, out=tmp_path / "out", candidates=[0.1, 0.2, 0.3], **SHORT
    )
    assert record.chosen == 0.2
    assert [row.within_budget for row in record.candidates] == [True, False, True, False]
    assert activation_of(ps.load(tmp_path / "out")) == Activation("fatrelu", 0.2)


@pytest.mark.parametrize("found", [0.5, float("nan"), float("inf")])
def test_none_within_the_budget_leaves_plain_relu(
    found, relu_checkpoint, texts, tmp_path, monkeypatch
):
    with_increases(monkeypatch, 0.0, found)
    record = ps.threshold(relu_checkpoint, texts, out=tmp_path / "out", candidates=[0.1], **SHORT)
    assert record.chosen == 0
    assert record.chosen_candidate is record.candidates[0]
    loaded = ps.load(tmp_path / "out")
    assert activation_of(loaded) == Activation("relu")
    assert torch.equal(logits(loaded), logits(ps.load(relu_checkpoint)))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "No threshold tried stayed within its quality budget" in card


def test_the_dtype_of_the_checkpoint_is_kept(relu_checkpoint, texts, tmp_path):
    ps.load(relu_checkpoint, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    ps.load_tokenizer(relu_checkpoint).save_pretrained(tmp_path / "half")
    record = ps.threshold(
        tmp_path / "half", texts, out=tmp_path / "out", candidates=[0.2], **ANY_COST, **SHORT
    )
    assert record.dtype == "float32"
    before, after = ps.load(tmp_path / "half"), ps.load(tmp_path / "out")
    assert after.dtype == torch.bfloat16
    weights = zip(before.parameters(), after.parameters(), strict=True)
    assert all(torch.equal(b, a) for b, a in weights)


def test_a_dense_model_is_refused(checkpoint, texts, tmp_path):
    with pytest.raises(ps.UserError, match="activation function is silu"):
        ps.threshold(checkpoint, texts, out=tmp_path / "out", **SHORT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": []}, "--candidates is empty"),
        ({"candidates": [0.0]}, "--candidates must be numbers above 0; found 0.0"),
        ({"max_perplexity_increase": -0.1}, "must be >= 0; found -0.1"),
        ({"max_perplexity_increase": float("nan")}, "must be >= 0; found nan"),
        ({"precision": "int4"}, "--precision must be"),
        ({"device": "toaster"}, "Device 'toaster'"),
        ({"tokens": 0}, "--tokens must be at least one window"),
        ({"data": {}}, "No data to measure on"),
    ],
)
def test_wrong_options_are_known_before_the_weights_are_read(
    options, message, relu_checkpoint, texts, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "load", pytest.fail)
    arguments = {"data": texts, **SHORT, **options}
    with pytest.raises(ps.UserError, match=message):
        ps.threshold(relu_checkpoint, out=tmp_path / "out", **arguments)


def test_an_existing_folder_is_refused_first(texts, tmp_path):
    with pytest.raises(ps.UserError, match="already exists"):
        ps.threshold("/no/model", texts, out=tmp_path)
