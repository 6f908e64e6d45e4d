# SPDX-License-Identifier: Apache-2.0
"""What loads, in which dtype, and in which words the rest is refused."""

import json
import shutil

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    PreTrainedConfig,
)

import prosparse as ps
from prosparse.model.activation import FATReLU
from prosparse.model.checkpoint import check_model
from prosparse.model.relufy import activation_of
from prosparse.records.sparsity import Activation

IDS = torch.arange(16)[None]


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A copy of the tiny checkpoint to break."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def refusal(use, *args) -> str:
    """Return the sentence with which a model is refused; it must be one line."""
    with pytest.raises(ps.UserError) as caught:
        use(*args)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_dtype_is_the_checkpoints_own_unless_another_is_wanted(stored, checkpoint, tmp_path):
    ps.load(checkpoint, dtype=stored).save_pretrained(tmp_path)
    assert ps.load(tmp_path).dtype == stored
    assert ps.load(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_a_model_comes_in_eval_mode_and_as_transformers_would_load_it(checkpoint):
    model = ps.load(str(checkpoint))
    assert not model.training
    assert torch.equal(logits(model), logits(AutoModelForCausalLM.from_pretrained(checkpoint)))


@pytest.mark.parametrize("name", ["some-model", "owner/some-model"])
def test_a_hub_id_reaches_transformers_as_it_is(name, checkpoint, monkeypatch):
    seen = []

    def local(cls):
        original = cls.from_pretrained

        def from_pretrained(asked, *args, **kwargs):
            seen.append((cls, asked))
            return original(checkpoint, *args, **kwargs)

        monkeypatch.setattr(cls, "from_pretrained", from_pretrained)

    for cls in (AutoConfig, AutoModelForCausalLM, AutoTokenizer):
        local(cls)
    own = PreTrainedConfig.get_config_dict
    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", lambda *_, **__: own(checkpoint))
    ps.load(name)
    assert set(seen) == {(AutoConfig, name), (AutoModelForCausalLM, name)}
    ps.load_tokenizer(name)
    assert (AutoTokenizer, name) in seen


def test_a_hub_id_that_cannot_be_reached():
    sentence = refusal(ps.load, "owner/no-such-model")
    assert sentence.startswith(
        "There is no folder owner/no-such-model, and as a hub id it cannot be"
    )


@pytest.mark.parametrize("use", [ps.load, ps.load_tokenizer, check_model])
@pytest.mark.parametrize("path", ["/no/such/model", "./no", "~/no-such", "a/b/c"])
def test_a_path_that_is_not_there(path, use):
    assert refusal(use, path) == f"No model at {path}: the path does not exist."


@pytest.mark.parametrize("use", [ps.load, ps.load_tokenizer, check_model])
def test_what_is_no_model_folder(use, texts, tmp_path):
    file = texts["prose"]
    assert refusal(use, file).startswith(f"{file} is a file; give a model folder, a .gguf file or")
    assert refusal(use, tmp_path).startswith(f"{tmp_path} has no config.json: it is not a Hugging")
    assert refusal(use, "").startswith("No model was named")


@pytest.mark.parametrize("use", [ps.load, ps.load_tokenizer, check_model])
def test_an_encoder_is_refused(use, tmp_path):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    BertForMaskedLM(BertConfig(vocab_size=16, num_hidden_layers=1, **sizes)).save_pretrained(
        tmp_path
    )
    assert refusal(use, tmp_path) == (
        f"{tmp_path} is a BertForMaskedLM, not a causal language model; prosparse works on models "
        "that transformers loads with AutoModelForCausalLM."
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "cake"}, "has model_type 'cake', which neither transformers nor prosparse"),
        ({"hidden_size": "wide"}, "'hidden_size' expected int, got str"),
        ({"hidden_act": "cake"}, "it needs 'cake', which is not there"),
        ({"hidden_size": 33}, "hidden size"),
        (
            {"num_hidden_layers": 3},
            "lacks model.layers.2.input_layernorm.weight and 8 more weights",
        ),
        (
            {"intermediate_size": 64},
            "disagree about the shape of model.layers.0.mlp.down_proj.weigh",
        ),
        ({"architectures": ["CakeModel"]}, "is a CakeModel, not a causal language model"),
    ],
)
def test_a_config_that_does_not_fit(changes, reason, copy):
    change_config(copy, **changes)
    sentence = refusal(ps.load, copy)
    assert str(copy) in sentence
    assert reason in sentence


def test_a_config_that_is_no_json(copy):
    (copy / "config.json").write_text("{")
    assert "is not a valid JSON file" in refusal(ps.load, copy)


@pytest.mark.parametrize("length", [0, 4, 2000, 40000])
def test_weights_cut_short(length, copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert refusal(ps.load, copy).startswith(f"{copy} cannot be loaded: Error while deserializing")


def test_no_weights(copy):
    (copy / "model.safetensors").unlink()
    assert "no file named model.safetensors" in refusal(ps.load, copy)


def test_a_pickle_is_never_opened(copy, monkeypatch):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"would run anything")
    monkeypatch.setattr(torch, "load", pytest.fail)
    assert "no file named model.safetensors" in refusal(ps.load, copy)


def test_code_beside_a_checkpoint_does_not_run_unasked(copy):
    (copy / "configuration_own.py").write_text("raise SystemExit('it ran')")
    auto_map = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
    change_config(copy, model_type="own", auto_map=auto_map)
    assert "trust_remote_code" in refusal(ps.load, copy)


def test_no_tokenizer(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    assert refusal(ps.load_tokenizer, copy).startswith(f"{copy} has no usable tokenizer: ")


@pytest.mark.parametrize("content", ["{", "{}", "[]", ""])
def test_a_broken_tokenizer(content, copy):
    (copy / "tokenizer.json").write_text(content)
    assert refusal(ps.load_tokenizer, copy).startswith(f"{copy} has no usable tokenizer: ")


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_are_not_missing_weights(tied, copy, tmp_path):
    config = AutoConfig.from_pretrained(copy, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "tied")
    assert ps.load(tmp_path / "tied").config.tie_word_embeddings == tied


@pytest.mark.parametrize(
    ("name", "numbers"), [("relu", {}), ("fatrelu", {"threshold": 0.05})], ids=["relu", "fatrelu"]
)
def test_a_family_that_hard_codes_its_activation(name, numbers, checkpoint, tmp_path):
    torch.manual_seed(0)
    dense = BloomForCausalLM(
        BloomConfig(vocab_size=257, hidden_size=16, n_layer=2, n_head=2)
    ).eval()
    for parameter in dense.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    dense.save_pretrained(tmp_path / "bloom")
    ps.load_tokenizer(checkpoint).save_pretrained(tmp_path / "bloom")
    record = ps.relufy(tmp_path / "bloom", out=tmp_path / "sparse", activation=name, **numbers)
    assert record.replaced == Activation("BloomGelu")

    by_hand = torch.nn.ReLU() if name == "relu" else FATReLU(0.05)
    for block in dense.transformer.h:
        block.mlp.gelu_impl = by_hand
    sparse = ps.load(tmp_path / "sparse")
    assert activation_of(sparse) == record.activation
    assert torch.equal(logits(sparse), logits(dense))
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse")
    assert not torch.equal(logits(stock), logits(dense))  # what the card warns of
    assert "`AutoModelForCausalLM` alone would" in (tmp_path / "sparse" / "README.md").read_text()
