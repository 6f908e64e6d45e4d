# SPDX-License-Identifier: Apache-2.0
"""Step 1 changes the activation function and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

import prosparse as ps
from prosparse.model.relufy import activation_of
from prosparse.records.files import read_record
from prosparse.records.sparsity import Activation

IDS = torch.arange(20)[None]
CASES = {
    "relu": ({}, Activation("relu")),
    "fatrelu": ({"threshold": 0.25}, Activation("fatrelu", 0.25)),
    "shifted-relu": ({"bias": 0.25}, Activation("shifted_relu", 0.25)),
}
BY_HAND = {
    "relu": lambda x: x.clamp(min=0),
    "fatrelu": lambda x: torch.where(x >= 0.25, x, torch.zeros_like(x)),
    "shifted-relu": lambda x: (x - 0.25).clamp(min=0),
}
# A process that knows nothing of prosparse.
STOCK = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert "prosparse" not in sys.modules
with torch.no_grad():
    torch.save(model(torch.arange(20)[None]).logits, sys.argv[2])
"""


@pytest.fixture(scope="module", params=CASES)
def relufied(request, checkpoint, tmp_path_factory):
    """(name, record, folder) for each activation."""
    folder = tmp_path_factory.mktemp("relufied") / request.param
    numbers, _ = CASES[request.param]
    record = ps.relufy(str(checkpoint), out=folder, activation=request.param, **numbers)
    return request.param, record, folder


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@torch.no_grad()
def logits_by_hand(checkpoint: Path, act) -> torch.Tensor:
    """Run the dense model with its FFN's forward written out anew."""
    model = ps.load(checkpoint)
    for layer in model.model.layers:
        mlp = layer.mlp
        mlp.forward = lambda x, mlp=mlp: mlp.down_proj(act(mlp.gate_proj(x)) * mlp.up_proj(x))
    return logits(model)


def test_the_record(relufied, checkpoint):
    name, record, folder = relufied
    assert read_record(folder) == record
    assert record.model == str(checkpoint)
    assert record.replaced == Activation("silu")
    assert record.activation == CASES[name][1]
    assert (record.num_layers, record.d_model, record.d_ff) == (2, 32, 48)


def test_the_config(relufied, checkpoint):
    name, _, folder = relufied
    _, activation = CASES[name]
    before = json.loads((checkpoint / "config.json").read_text())
    after = json.loads((folder / "config.json").read_text())
    expected = {**before, "hidden_act": activation.name}
    if activation.param is not None:
        expected["hidden_act_param"] = activation.param
        expected["auto_map"] = {"AutoModelForCausalLM": "modeling_prosparse.LlamaForCausalLM"}
    assert after == expected


def test_the_weights_are_untouched(relufied, checkpoint):
    before = load_file(checkpoint / "model.safetensors")
    after = load_file(relufied[2] / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_forward_pass(relufied, checkpoint):
    name, _, folder = relufied
    torch.testing.assert_close(
        logits(ps.load(folder)), logits_by_hand(checkpoint, BY_HAND[name]), rtol=0, atol=1e-6
    )
    assert not torch.allclose(logits(ps.load(folder)), logits(ps.load(checkpoint)), atol=1e-3)


def test_the_tokenizer_and_the_card_come_along(relufied, checkpoint):
    name, _, folder = relufied
    tokenizer = ps.load_tokenizer(folder)
    assert tokenizer("A text.").input_ids == ps.load_tokenizer(checkpoint)("A text.").input_ids
    assert tokenizer.chat_template == ps.load_tokenizer(checkpoint).chat_template
    card = (folder / "README.md").read_text()
    assert f"from `{checkpoint}`" in card
    assert "1. Its activation was changed from silu; its weights are untouched.\n" in card
    assert "Nothing has been trained since" in card
    assert f"`hidden_act: {CASES[name][1].name}`" in card


def test_relu_loads_in_stock_transformers(checkpoint, tmp_path):
    ps.relufy(checkpoint, out=tmp_path / "relu")
    script = [sys.executable, "-c", STOCK, tmp_path / "relu", tmp_path / "logits.pt"]
    subprocess.run(script, check=True, capture_output=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits(ps.load(tmp_path / "relu")))


def test_back_to_relu_leaves_no_number_behind(checkpoint, tmp_path):
    ps.relufy(checkpoint, out=tmp_path / "fat", activation="fatrelu", threshold=0.5)
    record = ps.relufy(tmp_path / "fat", out=tmp_path / "plain")
    assert record.replaced == Activation("fatrelu", 0.5)
    assert not hasattr(AutoConfig.from_pretrained(tmp_path / "plain"), "hidden_act_param")


def test_the_dtype_of_the_checkpoint_is_kept(checkpoint, tmp_path):
    ps.load(checkpoint, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    ps.load_tokenizer(checkpoint).save_pretrained(tmp_path / "half")
    ps.relufy(tmp_path / "half", out=tmp_path / "relu")
    weights = load_file(tmp_path / "relu" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_activation_of_a_dense_model(checkpoint):
    assert activation_of(ps.load(checkpoint)) == Activation("silu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, "Unknown activation 'gelu'"),
        ({"activation": "fatrelu"}, "fatrelu needs --threshold"),
        ({"bias": 1.0}, "--bias 1.0 does not apply to relu"),
    ],
)
def test_wrong_options_write_nothing(options, message, checkpoint, tmp_path):
    with pytest.raises(ps.UserError, match=message):
        ps.relufy(checkpoint, out=tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_before_the_model_is_looked_at(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ps.UserError, match="out already exists"):
        ps.relufy(tmp_path / "no model", out=tmp_path / "out")


def test_overwrite_may_replace_the_model_itself(checkpoint, tmp_path):
    ps.relufy(checkpoint, out=tmp_path / "out")
    before = logits(ps.load(tmp_path / "out"))
    ps.relufy(tmp_path / "out", out=tmp_path / "out", overwrite=True)
    assert torch.equal(logits(ps.load(tmp_path / "out")), before)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_model_without_a_dense_ffn_is_refused(tmp_path, checkpoint):
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    config = MixtralConfig(vocab_size=32, num_hidden_layers=1, num_key_value_heads=2, **sizes)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")
    ps.load_tokenizer(checkpoint).save_pretrained(tmp_path / "moe")
    with pytest.raises(ps.UserError, match="mixture of experts"):
        ps.relufy(tmp_path / "moe", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
