# SPDX-License-Identifier: Apache-2.0
"""`ps.threshold`: a checkpoint with the chosen threshold, and the trade-off beside it."""

import dataclasses
import json
import math

import pytest
import torch

import prosparse as ps
from prosparse.data.sources import Source
from prosparse.measurement.perplexity import measure_windows
from prosparse.measurement.run import read_windows
from prosparse.model.relufy import activation_of
from prosparse.records.files import read_record
from prosparse.records.sparsity import Activation
from prosparse.thresholds import run
from prosparse.thresholds.judge import apply_thresholds
from prosparse.thresholds.methods import Found
from tests.conftest import byte_tokenizer, write_documents

IDS = torch.arange(1, 17)[None]
SHORT = {"tokens": 128, "context_length": 32, "precision": "float32", "progress": False}
ANY_COST = {"max_perplexity_increase": 1e9}


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def with_increases(monkeypatch, *increases: float) -> None:
    """Let the candidates cost these perplexity increases."""
    original = run.try_methods

    def try_methods(judge, methods, candidates, learning):
        rows = original(judge, methods, candidates, learning).rows
        return Found(
            tuple(
                dataclasses.replace(
                    row, perplexity_increase=found, within_budget=found <= judge.max_increase
                )
                for row, found in zip(rows, increases, strict=True)
            )
        )

    monkeypatch.setattr(run, "try_methods", try_methods)


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
    apply_thresholds(swept, [0.2, 0.2])
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
    with_increases(monkeypatch, 0.02, 0.005, 0.03)
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
    with_increases(monkeypatch, found)
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
        ({"method": "greedy"}, "--method must be one of fixed, per-layer, cett, all"),
        ({"method": "cett", "max_perplexity_increase": 0.0}, "a finite number above 0; found 0.0"),
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


@pytest.mark.parametrize("method", ["per-layer", "cett"])
def test_a_threshold_for_each_layer_is_in_the_checkpoint(method, relu_checkpoint, texts, tmp_path):
    out = tmp_path / "out"
    budget = {"max_perplexity_increase": 0.3}
    record = ps.threshold(relu_checkpoint, texts, out=out, method=method, **budget, **SHORT)
    assert read_record(out) == record
    assert record.method == method
    chosen = record.chosen_candidate
    assert chosen.within_budget
    assert len(set(chosen.layer_thresholds)) == 2
    loaded = ps.load(out)
    assert activation_of(loaded) == Activation("fatrelu", chosen.layer_thresholds)
    # Of four windows two taught what layers cost; the other two judged.
    sources = {name: Source(path=str(path)) for name, path in texts.items()}
    for windows, judged in zip(
        read_windows(sources, ps.load_tokenizer(out), 32, 128), chosen.data, strict=True
    ):
        rest = dataclasses.replace(windows, ids_WS=windows.ids_WS[2:])
        again = measure_windows(loaded, rest, precision="float32").summary()
        assert (again.num_tokens, judged.num_tokens) == (64, 64)
        assert again.loss == pytest.approx(judged.loss, rel=1e-6)
        assert again.sparsity == pytest.approx(judged.sparsity, abs=1e-9)
    assert bool(record.layer_costs) == (method == "per-layer")
    assert f"(method {method})" in (out / "README.md").read_text()


def test_of_all_methods_the_sparsest_is_kept(relu_checkpoint, texts, tmp_path):
    out, budget = tmp_path / "out", {"max_perplexity_increase": 0.1}
    record = ps.threshold(relu_checkpoint, texts, out=out, method="all", **budget, **SHORT)
    best = max((c for c in record.candidates if c.within_budget), key=lambda c: c.sparsity)
    assert record.chosen_candidate.sparsity == best.sparsity
    assert {c.method for c in record.candidates} == {"fixed", "per-layer", "cett"}
    assert [c.method for c in record.check] == ["fixed", "fixed", "per-layer", "cett"]


def test_the_choice_is_checked_on_the_text_that_follows(relu_checkpoint, texts, tmp_path):
    record = ps.threshold(
        relu_checkpoint, texts, out=tmp_path / "out", candidates=[0.2], **ANY_COST, **SHORT
    )
    plain, checked = record.check
    assert record.checked is checked
    assert (plain.threshold, checked.threshold) == (0.0, 0.2)
    # By hand: twice the tokens are both texts, and all windows are of one length.
    double = {**SHORT, "tokens": 256}
    for model, there, here in (
        (relu_checkpoint, record.candidates[0], plain),
        (tmp_path / "out", record.chosen_candidate, checked),
    ):
        whole = ps.measure(model, texts, **double)
        for both, first, second in zip(whole.data, there.data, here.data, strict=True):
            assert second.num_tokens == 128
            assert both.loss == pytest.approx((first.loss + second.loss) / 2, rel=1e-6)
            assert both.sparsity == pytest.approx((first.sparsity + second.sparsity) / 2, rel=1e-6)
    increase = math.expm1(
        sum(c.loss - p.loss for c, p in zip(checked.data, plain.data, strict=True)) / 2
    )
    assert checked.perplexity_increase == pytest.approx(increase, rel=1e-6)


def test_other_data_can_be_the_check(relu_checkpoint, texts, tmp_path):
    record = ps.threshold(
        relu_checkpoint,
        {"prose": texts["prose"]},
        check_data={"code": texts["code"]},
        out=tmp_path / "out",
        candidates=[0.2],
        **ANY_COST,
        **SHORT,
    )
    assert [m.data for m in record.chosen_candidate.data] == ["prose"]
    assert [m.data for m in record.checked.data] == ["code"]


def test_a_check_over_the_budget_is_said_plainly(relu_checkpoint, texts, tmp_path, monkeypatch):
    with_increases(monkeypatch, -0.1)
    record = ps.threshold(relu_checkpoint, texts, out=tmp_path / "out", candidates=[1.0], **SHORT)
    assert not record.checked.within_budget
    (note,) = [note for note in record.notes if "not chosen by" in note]
    assert "t = 1 costs" in note
    assert "over the budget of 1.00%" in note
    assert "over the budget of 1.00%" in (tmp_path / "out" / "README.md").read_text()


def test_a_choice_that_follows_noise_is_said_to(relu_checkpoint, texts, tmp_path):
    options = {"candidates": [0.1], "max_perplexity_increase": 0.02}
    record = ps.threshold(relu_checkpoint, texts, out=tmp_path / "out", **options, **SHORT)
    assert record.chosen == 0.1
    is_noise = record.chosen_candidate.perplexity_increase_stderr > 0.005
    assert any("the choice follows noise" in note for note in record.notes) == is_noise
    single = {**SHORT, "tokens": 32}  # one window has no standard error
    options = {"candidates": [0.1], **ANY_COST}
    record = ps.threshold(relu_checkpoint, texts, out=tmp_path / "one", **options, **single)
    assert any("known to ± nan% only" in note for note in record.notes)


def test_without_text_for_a_check_it_says_so(relu_checkpoint, texts, tmp_path):
    record = ps.threshold(
        relu_checkpoint,
        {"all": write_documents(tmp_path / "all.jsonl", ["One hundred letters. " * 7])},
        out=tmp_path / "out",
        candidates=[0.2],
        **ANY_COST,
        **SHORT,
    )
    assert (record.check, record.checked) == ((), None)
    assert any("The choice was not checked" in note for note in record.notes)


def test_a_budget_that_nothing_meets_leaves_the_best_in_words(relu_checkpoint, texts, tmp_path):
    candidates = {"candidates": [1.0, 2.0], "max_perplexity_increase": 1e-9}
    record = ps.threshold(relu_checkpoint, texts, out=tmp_path / "out", **candidates, **SHORT)
    assert record.chosen == 0
    assert record.notes[0].startswith("No threshold tried stays within the budget of 0.00%")
    least = min(record.candidates[1:], key=lambda c: c.perplexity_increase)
    assert f"(t = {least.threshold:g}) costs {least.perplexity_increase:.2%}" in record.notes[0]
    assert [c.threshold for c in record.check] == [0.0]


@pytest.mark.parametrize("method", ["per-layer", "cett"])
def test_a_layer_without_an_active_neuron_keeps_relu(method, relu_checkpoint, texts, tmp_path):
    model = ps.load(relu_checkpoint)
    model.model.layers[0].mlp.gate_proj.weight.data.zero_()
    model.save_pretrained(tmp_path / "silent")
    byte_tokenizer().save_pretrained(tmp_path / "silent")
    budget = {"max_perplexity_increase": 0.1}
    record = ps.threshold(
        tmp_path / "silent", texts, out=tmp_path / "out", method=method, **budget, **SHORT
    )
    assert record.chosen_candidate.layer_thresholds[0] == 0.0
    assert record.chosen_candidate.layer_thresholds[1] > 0
    assert any("No neuron of layer 0 was ever active" in note for note in record.notes)


@pytest.mark.parametrize("method", ["fixed", "all"])
def test_weights_of_nan_leave_nothing_behind(method, relu_checkpoint, texts, tmp_path):
    model = ps.load(relu_checkpoint)
    model.model.layers[0].mlp.up_proj.weight.data[0] = math.nan
    model.save_pretrained(tmp_path / "broken")
    byte_tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(ps.UserError, match="look for NaN in its weights"):
        ps.threshold(tmp_path / "broken", texts, out=tmp_path / "out", method=method, **SHORT)
    assert not (tmp_path / "out").exists()


def test_an_empty_data_set_is_one_sentence(relu_checkpoint, tmp_path):
    empty = write_documents(tmp_path / "empty.jsonl", [])
    with pytest.raises(ps.UserError, match="'nothing'"):
        ps.threshold(relu_checkpoint, {"nothing": empty}, out=tmp_path / "out", **SHORT)
