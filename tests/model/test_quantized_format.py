# SPDX-License-Identifier: Apache-2.0
"""Quantized checkpoints through transformers' own `from_pretrained`, with and without us."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import prosparse as ps
from prosparse.kernels.quantize import dequantize
from prosparse.model.quantized import QuantizedMatrix
from tests.model.test_quantized import logits, quantized

FAMILIES = ["llama", "phi3", "opt", "gpt2", "gemma2"]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_it_comes_back_bit_for_bit_and_goes_again(model_type, bits, tmp_path):
    model = quantized(model_type, bits)
    model.save_pretrained(tmp_path / "once")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "once", output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(logits(loaded.eval()), logits(model))
    loaded.save_pretrained(tmp_path / "twice")
    assert torch.equal(logits(ps.load(tmp_path / "twice")), logits(model))


def test_full_precision_weights_are_never_made(tmp_path, monkeypatch):
    quantized("llama", 4, tie_word_embeddings=True).save_pretrained(tmp_path)
    sizes = []
    whole = QuantizedMatrix.rows
    monkeypatch.setattr(QuantizedMatrix, "rows", lambda *a: sizes.append(1) or whole(*a))
    model = ps.load(tmp_path)
    assert not sizes
    held = [*model.parameters(), *model.buffers()]
    assert all(tensor.device.type == "cpu" for tensor in held)
    matrices = [tensor for tensor in held if tensor.is_floating_point() and tensor.dim() == 2]
    assert {tensor.dtype for tensor in matrices} == {torch.float16}  # scales


def test_another_dtype_is_for_the_rest(tmp_path):
    quantized().save_pretrained(tmp_path)
    model = ps.load(tmp_path, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert logits(model).dtype == torch.bfloat16
    scales = {m.scales.dtype for m in model.modules() if isinstance(m, QuantizedMatrix)}
    assert scales == {torch.float16}


def test_the_files_are_what_the_document_says(tmp_path):
    model = quantized("llama", 4, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (said["quant_method"], said["format_version"], said["group_size"]) == (
        "prosparse",
        1,
        32,
    )
    assert said["bits"]["model.layers.0.mlp.down_proj"] == 4
    assert set(said["by_input"]) == {f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1)}
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
        name = "model.layers.0.mlp.down_proj"
        packed, scales = file.get_tensor(f"{name}.weight"), file.get_tensor(f"{name}.scales")
    d_ff, d_model = model.config.intermediate_size, model.config.hidden_size
    assert packed.shape == (d_ff, d_model // 32, 16)
    assert packed.dtype == torch.uint8
    assert scales.shape == (d_ff, d_model // 32)
    assert scales.dtype == torch.float16
    expected = torch.empty(d_ff, d_model)
    for group in range(d_model // 32):  # by the words of the document
        for byte in range(16):
            value = group * 32 + 8 * (byte // 4) + byte % 4
            low, high = packed[:, group, byte] & 15, packed[:, group, byte] >> 4
            expected[:, value] = (low.float() - 8) * scales[:, group].float()
            expected[:, value + 4] = (high.float() - 8) * scales[:, group].float()
    assert torch.equal(expected, dequantize(packed.flatten(1), scales))


@pytest.mark.parametrize("bits", [8, 4])
def test_without_us_it_does_not_load(bits, tmp_path):
    quantized("llama", bits).save_pretrained(tmp_path)
    script = (
        "from transformers import AutoModelForCausalLM\n"
        f"AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})"
    )
    environment = os.environ | {"TRANSFORMERS_VERBOSITY": "warning"}  # whatever our command set
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert "Unknown quantization type, got prosparse" in done.stderr
    assert "ignore_mismatched_sizes" in done.stderr.splitlines()[-1]


def test_damaged_or_later_checkpoints_are_refused_in_a_sentence(tmp_path):
    quantized().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text())

    def refused(sentence, **changes):
        said = whole["quantization_config"] | changes
        path.write_text(json.dumps(whole | {"quantization_config": said}))
        with pytest.raises(ps.UserError, match=sentence):
            ps.load(tmp_path)

    refused("version 2 of prosparse's format", format_version=2)
    refused("with signs; this prosparse", signs=True)
    refused(r"names model\.layers\.9\.mlp as quantized", bits={"model.layers.9.mlp": 4})
    refused("has 3 bits", bits={"model.layers.0.mlp.up_proj": 3})
    refused("not whole", bits={})
