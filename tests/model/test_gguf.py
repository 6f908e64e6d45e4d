# SPDX-License-Identifier: Apache-2.0
"""A GGUF becomes the plain model it was written from, with the activation and tokenizer it names."""

import json
import logging

import gguf
import numpy as np
import pytest
import torch

import prosparse as ps
from prosparse.model.checkpoint import check_model
from prosparse.model.relufy import activation_of
from prosparse.records.sparsity import Activation

IDS = torch.arange(16)[None]
F32, Q8_0 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0
LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def interleaved(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Return a q or k projection in the order of rows that llama.cpp's rotary embedding wants."""
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def tensors_of(model) -> dict[str, np.ndarray]:
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    config = model.config
    tensors = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
        "output.weight": weights["lm_head.weight"],
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for short, long in LAYER_NAMES.items():
            weight = weights[f"model.layers.{layer}.{long}.weight"]
            if short in heads:
                weight = interleaved(weight, heads[short])
            tensors[f"blk.{layer}.{short}.weight"] = weight
    return tensors


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer, pre: str) -> None:
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    tokens[-1] = "12"  # a GGUF needs at least one merge
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


@pytest.fixture(scope="module")
def model(checkpoint):
    return ps.load(checkpoint)


@pytest.fixture
def write(model, checkpoint, tmp_path):
    """Write the tiny model as a GGUF under a new name; `drop` leaves a tensor out."""
    tokenizer, config = ps.load_tokenizer(checkpoint), model.config

    def write_gguf(name="tiny.gguf", quantization=F32, pre="default", drop=None, **keys):
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_vocab_size(config.vocab_size)
        write_tokenizer(writer, tokenizer, pre)
        for key, value in keys.items():
            kinds = {str: writer.add_string, list: writer.add_array}
            kinds.get(type(value), writer.add_float32)(f"prosparse.{key}", value)
        for tensor_name, tensor in tensors_of(model).items():
            kind = quantization if tensor.ndim == 2 and tensor.shape[1] % 32 == 0 else F32
            if tensor_name != drop:
                data = gguf.quants.quantize(np.ascontiguousarray(tensor), kind)
                writer.add_tensor(tensor_name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write_gguf


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def test_it_is_the_model_it_was_written_from(write, model, caplog):
    with caplog.at_level(logging.WARNING, "prosparse"):
        loaded = ps.load(write())
    torch.testing.assert_close(logits(loaded), logits(model))
    assert loaded.dtype == torch.float32
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    (record,) = caplog.records
    assert record.getMessage() == (
        "tiny.gguf does not name its activation function (no GGUF does); taking the default of its "
        "architecture, silu."
    )


def test_blocks_are_unpacked(write, model):
    loaded = ps.load(write(quantization=Q8_0))
    gate = loaded.model.layers[0].mlp.gate_proj.weight
    assert (gate.dtype, gate.shape) == (torch.float32, (48, 32))
    torch.testing.assert_close(gate, model.model.layers[0].mlp.gate_proj.weight, atol=1e-2, rtol=0)


def test_a_dtype_can_be_chosen(write):
    assert ps.load(write(), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_relu_is_relu_when_the_file_says_so(write, relu_checkpoint, caplog):
    loaded = ps.load(write(hidden_act="relu"))
    torch.testing.assert_close(logits(loaded), logits(ps.load(relu_checkpoint)))
    assert loaded.config.hidden_act == "relu"
    assert caplog.records == []


def test_fatrelu_has_the_threshold_of_the_file(write):
    loaded = ps.load(write(hidden_act="fatrelu", hidden_act_param=0.25))
    assert activation_of(loaded) == Activation("fatrelu", 0.25)
    assert loaded.model.layers[1].mlp.act_fn.param == 0.25


def test_fatrelu_may_have_a_threshold_for_each_layer(write):
    loaded = ps.load(write(hidden_act="fatrelu", hidden_act_param=[0.25, 0.5]))
    assert activation_of(loaded) == Activation("fatrelu", (0.25, 0.5))
    assert [layer.mlp.act_fn.param for layer in loaded.model.layers] == [0.25, 0.5]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"hidden_act": "fatrelu", "hidden_act_param": [0.1, 0.2, 0.3]},
            "lists 3 numbers for the 2 layers",
        ),
        (
            {"hidden_act": "fatrelu"},
            "hidden_act fatrelu, but its prosparse.hidden_act_param is None",
        ),
        ({"hidden_act": "cake"}, "has prosparse.hidden_act cake, which prosparse does not know"),
    ],
)
def test_an_activation_that_cannot_be_built_is_refused(keys, message, write):
    with pytest.raises(ps.UserError, match=message):
        ps.load(write(**keys))


def test_the_dense_activation_may_be_named_too(write, caplog):
    assert ps.load(write(hidden_act="silu")).config.hidden_act == "silu"
    assert caplog.records == []


def test_a_file_without_one_of_its_weights_is_refused(write):
    with pytest.raises(
        ps.UserError, match=r"tiny\.gguf lacks model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        ps.load(write(drop="blk.1.ffn_up.weight"))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("use", [ps.load, ps.load_tokenizer, check_model])
def test_a_file_cut_short_is_one_sentence(use, share, write):
    path = write()
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(
        ps.UserError, match=r"tiny\.gguf is not a whole GGUF file .* get it again\.$"
    ):
        use(path)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "text.gguf"
    for content in (b"", b"just text"):
        path.write_bytes(content)
        with pytest.raises(ps.UserError, match=r"text\.gguf is not a GGUF file"):
            ps.load(path)


def test_no_file(tmp_path):
    with pytest.raises(ps.UserError, match=r"No GGUF file at .*nothing\.gguf"):
        ps.load(tmp_path / "nothing.gguf")


@pytest.mark.parametrize(("pre", "tokens"), [("smollm", ["1", "2"]), ("default", ["12"])])
def test_the_pre_tokenizer_that_the_file_names(pre, tokens, write):
    tokenizer = ps.load_tokenizer(write(f"{pre}.gguf", pre=pre))
    assert tokenizer.tokenize("12") == tokens
    assert tokenizer.decode(tokenizer("a 12 b").input_ids) == "a 12 b"
    assert tokenizer.eos_token_id == 0


def test_what_is_saved_is_a_plain_checkpoint(write, tmp_path):
    path = write(quantization=Q8_0)
    ps.relufy(path, out=tmp_path / "relu")
    config = json.loads((tmp_path / "relu" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["hidden_act"] == "relu"
    again = ps.load(tmp_path / "relu")
    assert activation_of(again) == Activation("relu")
    gate = "model.layers.0.mlp.gate_proj.weight"
    assert torch.equal(again.get_parameter(gate), ps.load(path).get_parameter(gate))
    assert ps.load_tokenizer(tmp_path / "relu").tokenize("12") == ["12"]
