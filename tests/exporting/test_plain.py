# SPDX-License-Identifier: Apache-2.0
"""Plain GGUF: what llama.cpp computes it may load; anything else only we do, and as it was."""

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import prosparse as ps
from prosparse.model.activation import make_activation
from prosparse.model.checkpoint import check_model, skeleton
from prosparse.model.relufy import activation_of, relufy_in_place
from tests.conftest import byte_tokenizer, tiny_llama
from tests.exporting.reading import read

ACTIVATIONS = {
    "relu": make_activation("relu"),
    "fatrelu": make_activation("fatrelu", threshold=0.125),
    "shifted": make_activation("shifted_relu", bias=0.25),
    "drelu": make_activation("drelu"),
}


def saved(folder, activation=None, **overrides):
    network = tiny_llama(**overrides)
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        parameter.data = parameter.data.half().float()  # so that float16 loses nothing
        if "norm" in name:
            parameter.data = torch.rand_like(parameter) + 0.5
    if activation is not None:
        relufy_in_place(network, activation)
    network.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return network


def logits(model):
    ids = torch.randint(257, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("tied", [False, True], ids=["own-head", "tied"])
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_what_only_we_load_comes_back_as_it_was(tmp_path, activation, tied):
    network = saved(tmp_path / "model", activation, tie_word_embeddings=tied)
    ps.export(tmp_path / "model", to="gguf", out=tmp_path / "out", only_prosparse=True)
    path = tmp_path / "out" / "model.gguf"
    found = ps.load(path)
    assert activation_of(found) == activation_of(network) == activation
    assert torch.equal(logits(found), logits(network))
    text = "def add(x):\n    return x + 17"
    assert ps.load_tokenizer(path)(text)["input_ids"] == byte_tokenizer()(text)["input_ids"]
    assert ps.load_tokenizer(path).eos_token_id == 0
    assert found.config.eos_token_id == network.config.eos_token_id
    check_model(path)
    assert skeleton(path).config.intermediate_size == 48


def test_thresholds_of_each_layer_come_back(tmp_path):
    network = saved(tmp_path / "model", ps_activation := make_activation("fatrelu", threshold=0.1))
    relufy_in_place(network, type(ps_activation)("fatrelu", (0.125, 0.25)))
    network.save_pretrained(tmp_path / "model")
    ps.export(tmp_path / "model", to="gguf", out=tmp_path / "out", only_prosparse=True)
    found = ps.load(tmp_path / "out" / "model.gguf")
    assert activation_of(found).param == (0.125, 0.25)
    assert torch.equal(logits(found), logits(network))


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_llama_cpp_is_not_handed_what_it_would_compute_wrongly(tmp_path, activation):
    saved(tmp_path / "model", activation)
    with pytest.raises(ps.UserError, match=r"computes SiLU.*--to powerinfer.*--only-prosparse"):
        ps.export(tmp_path / "model", to="gguf", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_other_reader_takes_our_own_for_a_silu_llama(tmp_path):
    saved(tmp_path / "model", ACTIVATIONS["relu"])
    ps.export(tmp_path / "model", to="gguf", out=tmp_path / "out", only_prosparse=True)
    keys, _ = read(tmp_path / "out" / "model.gguf")
    assert keys["general.architecture"] == "prosparse-llama"
    assert not any(key.startswith("llama.") for key in keys)
    with pytest.raises(ValueError, match="prosparse-llama"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", gguf_file="model.gguf")


def test_a_silu_llama_is_a_llama(tmp_path):
    network = saved(tmp_path / "model")
    record = ps.export(tmp_path / "model", to="gguf", out=tmp_path / "out")
    assert record.architecture == "llama"
    path = tmp_path / "out" / "model.gguf"
    keys, tensors = read(path)
    assert keys["prosparse.hidden_act"] == "silu"
    assert tensors["blk.0.ffn_down.weight"][1] == (32, 48)
    down = network.model.layers[0].mlp.down_proj.weight.detach().numpy()
    assert np.array_equal(tensors["blk.0.ffn_down.weight"][2], down)
    assert "blk.0.ffn_down_t.weight" not in tensors
    found = ps.load(path)  # as transformers reads any GGUF
    assert activation_of(found).name == "silu"
    assert torch.allclose(logits(found), logits(network), atol=1e-5)


def test_a_file_that_lacks_something_is_refused(tmp_path):
    saved(tmp_path / "model", ACTIVATIONS["relu"])
    ps.export(tmp_path / "model", to="gguf", out=tmp_path / "out", only_prosparse=True)
    data = (tmp_path / "out" / "model.gguf").read_bytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    with pytest.raises(ps.UserError, match=r"lacks model\.layers\.1\.mlp\.up_proj"):
        ps.load(broken)
    broken.write_bytes(
        data.replace(b"prosparse-llama.rope.freq_base", b"prosparse-llama.rope.freq_bass")
    )
    shutil.copy(broken, tmp_path / "other.gguf")
    with pytest.raises(ps.UserError, match=r"no key prosparse-llama\.rope\.freq_base"):
        ps.load(tmp_path / "other.gguf")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"to": "onnx"}, "--to must be powerinfer or gguf"),
        ({"to": "powerinfer"}, "give --predictors"),
        ({"to": "gguf", "unshifted": True}, "--unshifted is for --to powerinfer"),
        ({"to": "gguf", "vram_gb": 1.0}, "--vram-gb is for --to powerinfer"),
        ({"to": "powerinfer", "predictors": "x", "only_prosparse": True}, "is for --to gguf"),
        ({"to": "powerinfer", "predictors": "x", "vram_gb": 1.0}, "takes --data"),
        ({"to": "powerinfer", "predictors": "x"}, "No predictors in x"),
        ({"to": "gguf", "type": "q8"}, "--type must be one of f32, f16, q4_0"),
    ],
)
def test_options_that_do_not_fit(relu_checkpoint, tmp_path, options, complaint):
    with pytest.raises(ps.UserError, match=complaint):
        ps.export(relu_checkpoint, out=tmp_path / "out", **options)


def test_rows_must_be_whole_blocks(tmp_path):
    saved(tmp_path / "model", intermediate_size=48)
    with pytest.raises(ps.UserError, match=r"Q4_0 takes rows of a multiple of 32 values; found 48"):
        ps.export(tmp_path / "model", to="gguf", type="q4_0", out=tmp_path / "out")
