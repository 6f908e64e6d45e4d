# SPDX-License-Identifier: Apache-2.0
import torch

from prosparse.evaluation.identity import model_hash
from prosparse.model.checkpoint import load, load_tokenizer
from prosparse.model.relufy import relufy_in_place
from prosparse.records.sparsity import Activation
from tests.conftest import byte_tokenizer, tiny_llama


def test_the_same_model_from_another_folder_is_the_same(tmp_path):
    for name in ("a", "b"):
        tiny_llama().save_pretrained(tmp_path / name)
        byte_tokenizer().save_pretrained(tmp_path / name)
    first, second = (
        model_hash(load(tmp_path / name), load_tokenizer(tmp_path / name)) for name in ("a", "b")
    )
    assert first == second


def test_any_weight_setting_or_token_is_another_model():
    def other_weight(model, tokenizer):
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-3

    def other_activation(model, tokenizer):
        relufy_in_place(model, Activation("fatrelu", 0.01))

    def other_dtype(model, tokenizer):
        model.to(torch.bfloat16)

    def other_template(model, tokenizer):
        tokenizer.chat_template = "{{ messages }}"

    def other_tokens(model, tokenizer):
        tokenizer.add_tokens(["new"])

    def nothing(model, tokenizer):
        pass

    changes = [nothing, other_weight, other_activation, other_dtype, other_template, other_tokens]
    hashes = set()
    for change in changes:
        model, tokenizer = tiny_llama(), byte_tokenizer()
        change(model, tokenizer)
        hashes.add(model_hash(model, tokenizer))
    assert len(hashes) == len(changes)
