# SPDX-License-Identifier: Apache-2.0
"""`ps.fit_predictors` from text to a folder: choices, records, resumes, refusals."""

import json

import pytest
import torch

import prosparse as ps
from prosparse.predictors import fit as fit_module
from prosparse.predictors.files import read_predictors
from prosparse.records.files import read_record
from tests.conftest import byte_tokenizer, tiny_llama
from tests.predictors.conftest import FIT


def test_a_fit_with_rank_and_cut_given(fitted):
    record = read_record(fitted)
    predictors = read_predictors(fitted)
    assert [(p.rank, p.cut) for p in predictors.layers] == [(16, 0.0)] * 2
    assert record.reads == predictors.reads == "ffn-input"
    assert (record.num_rows, record.d_model, record.d_ff) == (800, 32, 48)
    assert record.exact_us is None
    assert all(layer.chosen.us is None and not layer.front for layer in record.layers)
    assert record.choice == "The rank is 16 in all layers; the cut is 0 in all layers."
    for layer in record.layers:
        # better than a guess, whose recall is 1 - predicted sparsity
        assert layer.chosen.recall + layer.chosen.predicted_sparsity > 1.2
        assert layer.start.recall == pytest.approx(layer.chosen.recall, abs=0.02)
    assert not fitted.with_name("predictors.unfinished").exists()


def test_chosen_by_measured_time(relu_checkpoint, texts, tmp_path):
    out = tmp_path / "out"
    record = ps.fit_predictors(relu_checkpoint, texts, out=out, max_missed=0.2, **FIT)
    assert record == read_record(out)
    assert record.exact_us > 0
    assert record.mean("missed") <= 0.2
    for layer, predictor in zip(record.layers, read_predictors(out).layers, strict=True):
        assert (predictor.rank, predictor.cut) == (layer.chosen.rank, layer.chosen.cut)
        assert layer.chosen.us > 0
        best = [p for p in layer.front if p.missed <= layer.chosen.missed]
        assert min(p.us for p in best) == layer.chosen.us


def test_recall_in_place_of_a_cut(relu_checkpoint, texts, tmp_path):
    record = ps.fit_predictors(
        relu_checkpoint, texts, out=tmp_path / "out", rank=16, recall=0.9, **FIT
    )
    # all validation rows are kept rows here, so the recall is exactly what was asked for
    assert all(0.9 <= layer.chosen.recall < 0.92 for layer in record.layers)


def test_folded_cuts(relu_checkpoint, texts, tmp_path):
    out = tmp_path / "out"
    record = ps.fit_predictors(
        relu_checkpoint, texts, out=out, rank=32, recall=0.9, zero_cuts=True, **FIT
    )
    assert [p.cut for p in read_predictors(out).layers] == [0, 0]
    assert record.choice.endswith("The cuts are folded into the second layers.")
    for layer in record.layers:
        assert layer.chosen.cut == 0
        assert 0.8 < layer.chosen.recall < 0.97
    ps.export(relu_checkpoint, to="powerinfer", predictors=out, out=tmp_path / "pwri")


def test_starts_alone(relu_checkpoint, texts, tmp_path):
    out = tmp_path / "out"
    record = ps.fit_predictors(
        relu_checkpoint, texts, out=out, rank=64, cut=0.0, **{**FIT, "epochs": 0}
    )
    assert [layer.epochs for layer in record.layers] == [0, 0]
    # twice d_model is the gate itself
    assert all(layer.chosen.recall > 0.97 for layer in record.layers)
    assert record.mean("predicted_sparsity") == pytest.approx(record.sparsity, abs=0.01)


def test_residuals(relu_checkpoint, texts, tmp_path):
    out = tmp_path / "out"
    options = {**FIT, "epochs": 0, "reads": "residual"}
    record = ps.fit_predictors(relu_checkpoint, texts, out=out, rank=64, cut=0.0, **options)
    assert record.reads == read_predictors(out).reads == "residual"
    assert all(layer.chosen.recall > 0.97 for layer in record.layers)
    found = ps.evaluate_predictors(
        relu_checkpoint,
        out,
        texts,
        tokens=256,
        context_length=32,
        precision="float32",
        progress=False,
    )
    assert found.mean("recall") > 0.97


def test_a_killed_fit_goes_on(relu_checkpoint, texts, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    ps.fit_predictors(relu_checkpoint, texts, out=whole, rank=16, cut=0.0, **FIT)
    original, trained = fit_module.fit_layer, []

    def killed(start, pairs, layer, *rest):
        if layer == 1:
            raise KeyboardInterrupt
        return original(start, pairs, layer, *rest)

    def noted(start, pairs, layer, *rest):
        trained.append(layer)
        return original(start, pairs, layer, *rest)

    again = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "fit_layer", killed)
        with pytest.raises(KeyboardInterrupt):
            ps.fit_predictors(relu_checkpoint, texts, out=again, rank=16, cut=0.0, **FIT)
    assert not again.exists()
    with pytest.raises(ps.UserError, match=r"pass --resume"):
        ps.fit_predictors(relu_checkpoint, texts, out=again, rank=16, cut=0.0, **FIT)
    with pytest.raises(ps.UserError, match=r"has seed 0, this one 1"):
        ps.fit_predictors(
            relu_checkpoint, texts, out=again, rank=16, cut=0.0, seed=1, resume=True, **FIT
        )
    monkeypatch.setattr(fit_module, "fit_layer", noted)
    seconds = json.loads((again.with_name("again.unfinished") / "seconds.json").read_text())
    record = ps.fit_predictors(
        relu_checkpoint, texts, out=again, rank=16, cut=0.0, resume=True, **FIT
    )
    assert trained == [1]
    assert record.fit_seconds > seconds["fitting"] > 0
    assert record.collect_seconds >= seconds["collecting"] > 0
    for a, b in zip(read_predictors(whole).layers, read_predictors(again).layers, strict=True):
        assert torch.equal(a.fc1, b.fc1)
        assert torch.equal(a.fc2, b.fc2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"rank": 15, "cut": 0.0}, r"--rank must be even and from 2 to 64.*found 15"),
        ({"cut": 0.0, "recall": 0.9}, r"--cut or --recall, not both"),
        ({"recall": 1.5}, r"--recall must be between 0 and 1"),
        ({"max_missed": -1.0}, r"--max-missed"),
        ({"reads": "logits"}, r"--input must be ffn-input or residual"),
        ({"reads": "residual"}, r"give --rank and --cut 0"),
        ({"rows": 3}, r"--rows must be at least"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_what_is_out_of_range(relu_checkpoint, texts, tmp_path, options, complaint):
    with pytest.raises(ps.UserError, match=complaint):
        ps.fit_predictors(relu_checkpoint, texts, out=tmp_path / "out", **{**FIT, **options})
    assert not (tmp_path / "out").exists()


def test_a_mistake_leaves_nothing_in_the_way_of_what_mends_it(relu_checkpoint, texts, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for model, data in (("/no/model", texts), (relu_checkpoint, {"prose": empty})):
        with pytest.raises(ps.UserError):
            ps.fit_predictors(model, data, out=tmp_path / "out", rank=16, cut=0.0, **FIT)
        assert not (tmp_path / "out.unfinished").exists()
    ps.fit_predictors(relu_checkpoint, texts, out=tmp_path / "out", rank=16, cut=0.0, **FIT)


def test_a_dense_model_has_nothing_to_predict(checkpoint, texts, tmp_path):
    with pytest.raises(
        ps.UserError, match=r"predictors say where ReLU or a kind of it is zero.*prosparse relufy"
    ):
        ps.fit_predictors(checkpoint, texts, out=tmp_path / "out", **FIT)


def test_biases_cannot_be_timed(texts, tmp_path):
    folder = tmp_path / "biased"
    tiny_llama(hidden_act="relu", mlp_bias=True).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    with pytest.raises(ps.UserError, match=r"because the FFNs have biases; give --rank"):
        ps.fit_predictors(folder, texts, out=tmp_path / "out", **FIT)


def test_the_evaluation_of_a_fit(relu_checkpoint, texts, fitted, tmp_path):
    options = {"tokens": 256, "context_length": 32, "precision": "float32", "progress": False}
    out = tmp_path / "eval"
    record = ps.evaluate_predictors(relu_checkpoint, fitted, texts, out=out, **options)
    assert read_record(out) == record
    measured = ps.measure(relu_checkpoint, texts, **options)
    assert record.dense == measured.data
    assert record.mean("sparsity") == pytest.approx(measured.sparsity)
    predicted = [m.loss for m in record.predicted]
    dense = [m.loss for m in record.dense]
    assert record.perplexity_increase != 0
    by_hand = sum(p - d for p, d in zip(predicted, dense, strict=True)) / 2
    assert torch.tensor(by_hand).expm1().item() == pytest.approx(
        record.perplexity_increase, rel=1e-4
    )
    # fewer neurons: the zeros that skipping made are counted as zeros
    assert all(p.sparsity > d.sparsity for p, d in zip(record.predicted, record.dense, strict=True))


def test_another_cut_can_be_tried(relu_checkpoint, texts, fitted):
    options = {"tokens": 64, "context_length": 32, "precision": "float32", "progress": False}
    all_in = ps.evaluate_predictors(relu_checkpoint, fitted, texts, cut=-1e9, **options)
    assert all_in.mean("recall") == 1
    assert all_in.perplexity_increase == pytest.approx(0, abs=1e-6)
    own = ps.evaluate_predictors(relu_checkpoint, fitted, texts, **options)
    assert own.mean("recall") < 1


def test_reports(fitted, relu_checkpoint, texts, tmp_path):
    page = ps.report(fitted, out=tmp_path / "fit")
    text = page.with_name("report.md").read_text()
    record = read_record(fitted)
    assert f"{100 * record.mean('recall'):.2f} % of the active neurons" in text
    assert "Before training" in text
    ps.evaluate_predictors(
        relu_checkpoint, fitted, texts, tokens=64, context_length=32, progress=False,
        precision="float32", out=tmp_path / "eval",
    )  # fmt: skip
    data = json.loads(ps.report(tmp_path / "eval").with_name("report.json").read_text())
    assert data["kind"] == "predictor_eval"
