# SPDX-License-Identifier: Apache-2.0
"""`ps.quantize`: a checkpoint that every verb takes, and a record that says what it cost."""

import json
import math

import pytest
import torch
import yaml

import prosparse as ps
from prosparse.model.activation import make_activation
from prosparse.model.quantized import QuantizedMatrix
from prosparse.model.quantizing import is_quantized
from prosparse.model.relufy import relufy_in_place
from prosparse.records.files import read_record
from tests.conftest import byte_tokenizer, tiny_llama

SHORT = {
    "tokens": 256, "context_length": 64, "deciding_tokens": 128, "precision": "float32",
    "progress": False,
}  # fmt: skip
ANY_COST = {"max_perplexity_increase": 1e9}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A ReLU checkpoint whose d_model is a whole group, with thresholds and a tied head."""
    folder = tmp_path_factory.mktemp("wide") / "llama"
    model = tiny_llama(hidden_act="relu", hidden_size=64, tie_word_embeddings=True)
    relufy_in_place(model, make_activation("fatrelu", threshold=0.02))
    model.to(torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def packed(wide, texts, tmp_path_factory):
    """The same in 4 bits, all of it."""
    out = tmp_path_factory.mktemp("packed") / "int4"
    ps.quantize(wide, texts, bits=4, out=out, **ANY_COST, **SHORT)
    return out


def test_the_record_is_about_the_checkpoint(wide, texts, tmp_path):
    out = tmp_path / "out"
    record = ps.quantize(wide, texts, bits=8, out=out, **ANY_COST, **SHORT)
    assert read_record(out) == record
    assert {layer.bits for layer in record.layers} == {8}
    loaded = ps.load(out)
    held = {n: m for n, m in loaded.named_modules() if isinstance(m, QuantizedMatrix)}
    assert {n: m.bits for n, m in held.items()} == {x.name: x.bits for x in record.layers}
    assert record.layers[0].name == "model.embed_tokens"

    assert record.bytes_after == sum(
        tensor.numel() * tensor.itemsize for tensor in loaded.state_dict().values()
    )
    plain = ps.load(wide)
    assert record.bytes_before == sum(2 * p.numel() for p in plain.parameters())
    assert record.bytes_after < 0.6 * record.bytes_before


def test_what_was_measured_is_what_was_written(wide, packed, texts):
    record = read_record(packed)
    set_aside = 1 + 4  # windows of each: one to measure layers alone, four of eight to measure all
    for folder, measured in ((wide, record.before), (packed, record.after)):
        options = {"context_length": 64, "precision": "float32", "progress": False}
        longer = ps.measure(folder, texts, tokens=256 + 64 * set_aside, **options)
        first = ps.measure(folder, texts, tokens=64 * set_aside, **options)
        for found, all_of, beginning in zip(measured, longer.data, first.data, strict=True):
            assert found.num_tokens == 256
            rest = ((4 + set_aside) * all_of.loss - set_aside * beginning.loss) / 4
            assert found.loss == pytest.approx(rest, abs=2e-5)
    increases = [a.loss - b.loss for a, b in zip(record.after, record.before, strict=True)]
    expected = math.expm1(sum(increases) / len(increases))
    assert record.perplexity_increase == pytest.approx(expected, rel=1e-9)
    assert (record.deciding_tokens, record.cutting_tokens) == (128, 2 * 4 * 64)


def test_the_budget_of_four_bits_is_spent_on_text_of_its_own(wide, packed, texts, tmp_path):
    budget = read_record(packed).cutting_increase / 2  # of what all of it costs
    record = ps.quantize(
        wide, texts, bits=4, out=tmp_path / "some", max_perplexity_increase=budget, **SHORT
    )
    assert len(record.held_in(4)) < len(record.layers)
    assert record.cutting_increase <= budget
    assert (
        ps.quantize(wide, texts, bits=8, out=tmp_path / "eight", **ANY_COST, **SHORT).cutting_tokens
        is None
    )


def test_activation_and_dtype_stay(packed):
    config = json.loads((packed / "config.json").read_text())
    assert (config["hidden_act"], config["hidden_act_param"]) == ("fatrelu", 0.02)
    assert config["dtype"] == "bfloat16"
    assert ps.load(packed).dtype == torch.bfloat16


def test_a_float32_checkpoint_keeps_its_rest_in_bfloat16(texts, tmp_path):
    tiny_llama(hidden_act="relu", hidden_size=64).save_pretrained(tmp_path / "plain")
    byte_tokenizer().save_pretrained(tmp_path / "plain")
    record = ps.quantize(
        tmp_path / "plain", texts, bits=8, out=tmp_path / "out", **ANY_COST, **SHORT
    )
    assert record.kept_dtype == "bfloat16"
    assert ps.load(tmp_path / "out").dtype == torch.bfloat16


def test_every_verb_takes_it(packed, texts, tmp_path):
    text = ps.generate(packed, "def", max_new_tokens=4)
    model = ps.load(packed)
    with ps.accelerate(model):
        assert ps.generate(model, "def", max_new_tokens=4, tokenizer=byte_tokenizer()) == text
    shifted = ps.threshold(
        packed, texts, out=tmp_path / "shifted", candidates=[0.5], tokens=128, context_length=32,
        precision="float32", progress=False, **ANY_COST,
    )  # fmt: skip
    assert shifted.chosen == 0.5
    loaded = ps.load(tmp_path / "shifted")
    assert loaded.config.hidden_act_param == 0.5
    assert is_quantized(loaded)
    for before, after in zip(model.modules(), loaded.modules(), strict=True):
        if isinstance(before, QuantizedMatrix):
            assert torch.equal(before.rows(), after.rows())
    inspected = ps.inspect(
        packed, texts, layer=1, neurons=[3], out=tmp_path / "inspected", progress=False
    )
    assert inspected.neurons[0].neuron == 3
    ps.relufy(packed, out=tmp_path / "relu", activation="relu")
    assert is_quantized(ps.load(tmp_path / "relu"))


def test_what_cannot_take_it_says_so(packed, texts, recipe_data, tmp_path):
    with pytest.raises(ps.UserError, match="quantized already"):
        ps.quantize(packed, texts, bits=8, out=tmp_path / "twice", **SHORT)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_data | {"model": str(packed)}))
    with pytest.raises(ps.UserError, match="quantized already"):
        ps.train(recipe)


def test_the_card_and_the_page_tell_it(packed):
    card = (packed / "README.md").read_text()
    assert "import prosparse" in card
    assert "15 are held in 4 bits" in card
    page = ps.report(packed).read_text()
    assert "text that took no part in deciding" in page
    assert "model.layers.1.mlp.down_proj" in page


def test_refusals(wide, relu_checkpoint, texts, tmp_path):
    def refused(sentence, model=wide, **options):
        with pytest.raises(ps.UserError, match=sentence):
            ps.quantize(model, texts, out=tmp_path / "out", **{**SHORT, "bits": 8, **options})
        assert not (tmp_path / "out").exists()

    refused("--bits must be 8 or 4; found 5", bits=5)
    refused("--max-perplexity-increase must be >= 0; found -1", max_perplexity_increase=-1)
    refused("--deciding-tokens must be at least 2; found 1", deciding_tokens=1)
    refused("128 windows of 64 tokens; 200 decide", tokens=64, deciding_tokens=25600)
    refused("multiple of it", model=relu_checkpoint)
    (tmp_path / "out").mkdir()
    with pytest.raises(ps.UserError, match="--overwrite"):
        ps.quantize(wide, texts, bits=8, out=tmp_path / "out", **SHORT)
