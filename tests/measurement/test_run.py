# SPDX-License-Identifier: Apache-2.0
"""`ps.measure`: several data sets, one record."""

import json
import math

import pytest
import torch

import prosparse as ps
from prosparse.data.sources import Source
from prosparse.data.windows import windows as cut_windows
from prosparse.measurement.run import read_windows
from prosparse.records.files import read_record
from prosparse.records.sparsity import Activation, DataMeasure, pool_layer_sparsity

SHORT = {
    "tokens": 256,
    "context_length": 32,
    "precision": "float32",
    "device": "cpu",
    "progress": False,
}


def test_the_record_of_two_data_sets(relu_checkpoint, texts, tmp_path):
    record = ps.measure(relu_checkpoint, texts, out=tmp_path / "out", **SHORT)
    assert read_record(tmp_path / "out") == record
    assert record.model == str(relu_checkpoint)
    assert record.activation == Activation("relu")
    assert (record.dtype, record.context_length) == ("float32", 32)
    assert [measured.data for measured in record.data] == ["prose", "code"]
    assert [measured.source for measured in record.data] == [str(path) for path in texts.values()]
    assert [measured.num_tokens for measured in record.data] == [256, 256]
    assert [measured.num_predictions for measured in record.data] == [248, 248]
    assert record.seconds > 0


def test_averages_over_layers_and_data_sets(relu_checkpoint, texts):
    record = ps.measure(relu_checkpoint, texts, **SHORT)
    prose, code = record.data
    for measured in (prose, code):
        assert measured.sparsity == pytest.approx(sum(measured.layer_sparsity) / 2)
    expected = [(p + c) / 2 for p, c in zip(prose.layer_sparsity, code.layer_sparsity, strict=True)]
    assert record.layer_sparsity == pytest.approx(expected)
    assert record.sparsity == pytest.approx(sum(expected) / 2)


def test_pooling_weighs_data_sets_by_their_tokens():
    def measured(num_tokens, layers):
        return DataMeasure("x", "x", num_tokens, num_tokens, 1, 0, math.e, 0, 0.5, layers)

    pooled = pool_layer_sparsity((measured(100, (0.0, 1.0)), measured(300, (1.0, 0.5))))
    assert pooled == pytest.approx((0.75, 0.625))


def test_a_data_set_alone_measures_as_it_does_among_others(relu_checkpoint, texts):
    both = ps.measure(relu_checkpoint, texts, **SHORT)
    alone = ps.measure(relu_checkpoint, {"code": texts["code"]}, **SHORT)
    assert alone.data[0] == both.data[1]


def test_perplexity_is_that_of_the_windows(relu_checkpoint, texts):
    record = ps.measure(relu_checkpoint, {"prose": texts["prose"]}, **SHORT)
    model, tokenizer = ps.load(relu_checkpoint), ps.load_tokenizer(relu_checkpoint)
    ids = cut_windows(Source(str(texts["prose"])), "prose", tokenizer, 32, 256)
    assert ids.shape == (8, 32)
    with torch.no_grad():  # equal windows: the mean over windows is the mean over tokens
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert record.data[0].loss == pytest.approx(loss, rel=1e-5)
    assert record.data[0].perplexity == pytest.approx(math.exp(loss), rel=1e-5)


def test_zero_weights_have_sparsity_one(relu_checkpoint, texts):
    model = ps.load(relu_checkpoint)
    for layer in model.model.layers:
        layer.mlp.gate_proj.weight.data.zero_()
    record = ps.measure(model, texts, **SHORT)
    assert record.sparsity == 1.0
    assert record.layer_sparsity == (1.0, 1.0)


def test_a_loaded_model_is_measured_as_it_is(relu_checkpoint, texts):
    model = ps.load(relu_checkpoint).train()
    record = ps.measure(model, texts, **SHORT)
    assert record.data == ps.measure(relu_checkpoint, texts, **SHORT).data
    assert record.model == str(relu_checkpoint)  # it knows where it came from
    assert model.training


def test_a_loaded_model_from_nowhere_needs_a_tokenizer(relu_checkpoint, texts):
    model = ps.load(relu_checkpoint)
    model.config.name_or_path = ""
    with pytest.raises(ps.UserError, match="its tokenizer"):
        ps.measure(model, texts, **SHORT)
    tokenizer = ps.load_tokenizer(relu_checkpoint)
    assert ps.measure(model, texts, tokenizer=tokenizer, **SHORT).sparsity > 0


def test_float32_means_float32_whatever_the_checkpoint_holds(relu_checkpoint, texts, tmp_path):
    ps.load(relu_checkpoint, dtype=torch.bfloat16).save_pretrained(tmp_path)
    ps.load_tokenizer(relu_checkpoint).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert ps.measure(tmp_path, texts, **SHORT).dtype == "float32"
    assert ps.measure(tmp_path, texts, **{**SHORT, "precision": "bfloat16"}).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "--tokens must be at least one window of 32 tokens; found 0"),
        ({"tokens": 31}, "--tokens must be at least one window of 32 tokens; found 31"),
        ({"context_length": 0}, "--context-length must be at least 2; found 0"),
        ({"context_length": 1}, "--context-length must be at least 2; found 1"),
        ({"precision": "int4"}, "--precision must be auto, float32 or bfloat16"),
        ({"device": "toaster"}, "Device 'toaster' cannot be used here"),
        ({"data": {}}, "No data to measure on; give at least one --data NAME=PATH"),
        ({"data": {"a": "/no/such.jsonl"}}, "Data component 'a': /no/such.jsonl does not exist"),
    ],
)
def test_what_cannot_be_measured(options, message, relu_checkpoint, texts, tmp_path, monkeypatch):
    # All of these are known before the weights are read.
    monkeypatch.setattr("prosparse.measurement.run.load", pytest.fail)
    arguments = {"data": texts, **SHORT, **options}
    with pytest.raises(ps.UserError, match=message):
        ps.measure(relu_checkpoint, out=tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_first(texts, tmp_path):
    with pytest.raises(ps.UserError, match="already exists"):
        ps.measure("/no/model", texts, out=tmp_path)


def test_too_little_text(relu_checkpoint, texts):
    tokenizer = ps.load_tokenizer(relu_checkpoint)
    with pytest.raises(ps.UserError, match=r"has \d+ tokens, fewer than one window of 100000"):
        read_windows({"prose": Source(str(texts["prose"]))}, tokenizer, 100_000, 100_000)


def test_records_of_before_distributions_and_metrics_still_read(relu_checkpoint, texts, tmp_path):
    record = ps.measure(relu_checkpoint, texts, out=tmp_path / "out", **SHORT)
    path = tmp_path / "out" / "record.json"
    data = json.loads(path.read_text())
    for key in ("activity", "metric", "points"):
        del data[key]
    for measure in data["data"]:
        del measure["activity"]
    path.write_text(json.dumps(data))
    assert read_record(path) == record
