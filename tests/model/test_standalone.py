# SPDX-License-Identifier: Apache-2.0
"""A sparse checkpoint loads with transformers alone, by the code beside it, to the same bits."""

import ast
import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

import prosparse as ps
from prosparse.errors import UserError
from prosparse.model.activation import FATReLU
from prosparse.model.checkpoint import save
from prosparse.model.families import FAMILIES
from prosparse.model.ffn import ffns
from prosparse.model.relufy import activation_of, relufy_in_place
from prosparse.model.standalone import MODULE, is_standalone
from prosparse.records.sparsity import Activation
from tests.conftest import byte_tokenizer, tiny_llama
from tests.model.formats.cases import CASES
from tests.model.formats.published import tensors
from tests.model.formats.published import write as published_format
from tests.model.tiny import tiny_model

IDS = torch.arange(3, 15)[None]
BY_LAYER = Activation("fatrelu", (0.3, 0.05))
# A process in which prosparse cannot be imported, wherever it may be installed.
WITHOUT_PROSPARSE = """
import sys
sys.modules["prosparse"] = None
import torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
granted = {"trust_remote_code": True} if sys.argv[1] == "granted" else {}
found = {}
for folder in sys.argv[3:]:
    model = AutoModelForCausalLM.from_pretrained(folder, **granted)
    with torch.no_grad():
        found[folder] = model(torch.arange(3, 15)[None]).logits
torch.save(found, sys.argv[2])
"""


def write(model, folder, activation=BY_LAYER):
    relufy_in_place(model, activation)
    folder.mkdir(exist_ok=True)
    save(model, byte_tokenizer(), folder, base="owner/base")
    return folder


def in_another_process(result, *folders, permission="granted"):
    command = [sys.executable, "-c", WITHOUT_PROSPARSE, permission, result, *folders]
    # HF_HOME: where transformers copies code to before it runs it.
    return subprocess.run(
        command, capture_output=True, text=True, env={"HF_HOME": str(result.parent / "home")}
    )


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def assert_same_bits_without_prosparse(models, tmp_path):
    """Compare the logits of models, by their folders, with those that the code beside them gives."""
    done = in_another_process(tmp_path / "logits.pt", *models)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "logits.pt")
    different = [
        folder.name
        for folder, model in models.items()
        if not torch.equal(found[str(folder)], logits(model))
    ]
    assert different == []


def test_every_family_and_activation_gives_the_same_bits_without_prosparse(tmp_path):
    others = [
        Activation("shifted_relu", 0.1),
        Activation("thresholded_silu", (0.3, 0.05)),
        Activation("drelu"),
    ]
    cases = [(family, BY_LAYER) for family in FAMILIES]
    cases += [("llama", activation) for activation in others]
    # gate and up in one matrix; no config key, so that stock transformers would run GELU
    cases += [("phi3", Activation("drelu")), ("bloom", Activation("relu"))]
    models = {}
    for family, activation in cases:
        model = tiny_model(family)
        dense = logits(model)
        folder = write(model, tmp_path / f"{family}-{activation.name}", activation)
        assert torch.equal(logits(ps.load(folder)), logits(model)), family
        assert not torch.allclose(logits(model), dense), family
        models[folder] = model
    assert_same_bits_without_prosparse(models, tmp_path)


def test_every_published_format_gives_the_same_bits_without_prosparse(tmp_path):
    models = {}
    for name, (config, shapes, _, _) in CASES.items():
        published = tmp_path / name.translate({ord(c): "_" for c in " <>"})
        model = ps.load(published_format(published, config, tensors(**shapes)))
        folder = published.with_name(f"{published.name}-saved")
        folder.mkdir()
        save(model, byte_tokenizer(), folder, base=name)
        models[folder] = model
    assert_same_bits_without_prosparse(models, tmp_path)


def test_thresholds_on_inputs_are_the_same_whether_prosparse_is_there(tmp_path):
    config, shapes, _, _ = CASES["teal"]
    folder = published_format(tmp_path / "teal", config, tensors(**shapes))
    model = ps.load(folder)
    save(model, byte_tokenizer(), folder, base="teal")
    again = ps.load(folder, trust_remote_code=True)
    assert is_standalone(again)
    assert torch.equal(logits(again), logits(model))
    assert {len(ffn.down._forward_pre_hooks) for ffn in ffns(again)} == {1}


def test_every_layer_has_its_own_threshold(tmp_path):
    model = tiny_llama()
    folder = write(model, tmp_path / "model")
    relufy_in_place(model, Activation("fatrelu", (0.05, 0.3)))
    assert not torch.equal(logits(ps.load(folder)), logits(model))


def test_without_permission_it_is_an_error_and_never_another_model(tmp_path):
    folder = write(tiny_llama(), tmp_path / "model")
    done = in_another_process(tmp_path / "logits.pt", folder, permission="refused")
    assert done.returncode != 0
    assert "KeyError: 'fatrelu'" in done.stderr
    assert not (tmp_path / "logits.pt").exists()


def test_the_code_stands_on_transformers_alone(tmp_path):
    folder = write(tiny_llama(), tmp_path / "model")
    tree = ast.parse((folder / f"{MODULE}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert names == {"torch", "transformers"}


def test_stock_transformers_after_import_prosparse(tmp_path):
    model = tiny_llama()
    folder = write(model, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert [m.param for m in loaded.modules() if isinstance(m, FATReLU)] == [0.3, 0.05]
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])  # the latter has another config key
def test_loaded_by_its_own_code_it_is_still_accelerated_and_saved_whole(family, tmp_path):
    model = tiny_model(family)
    folder = write(model, tmp_path / "model")
    loaded = ps.load(folder, trust_remote_code=True)
    assert is_standalone(loaded)
    assert activation_of(loaded) == BY_LAYER
    assert torch.equal(logits(loaded), logits(model))
    with ps.accelerate(loaded):
        assert torch.allclose(logits(loaded), logits(model), atol=1e-5)

    again = tmp_path / "again"
    again.mkdir()
    save(loaded, byte_tokenizer(), again, base="owner/base")
    for name in ("config.json", f"{MODULE}.py"):
        assert (again / name).read_text() == (folder / name).read_text()


def test_a_plain_relu_model_has_no_code_even_if_it_came_with_some(tmp_path):
    loaded = ps.load(write(tiny_llama(), tmp_path / "model"), trust_remote_code=True)
    folder = write(loaded, tmp_path / "plain", Activation("relu"))
    config = json.loads((folder / "config.json").read_text())
    assert "auto_map" not in config
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not (folder / f"{MODULE}.py").exists()
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(loaded))


@pytest.mark.parametrize("loader", [ps.load, AutoModelForCausalLM.from_pretrained])
def test_a_list_of_another_length_is_one_sentence(loader, tmp_path):
    folder = write(tiny_llama(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["hidden_act_param"] = [0.1, 0.2, 0.3]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"lists 3 numbers for the 2 layers"):
        loader(folder)


def test_the_card_says_how_to_load_it(tmp_path):
    card = (write(tiny_llama(), tmp_path / "model") / "README.md").read_text()
    assert "t from 0.05 to 0.3 by layer" in card
    assert "trust_remote_code=True" in card
    assert "KeyError: 'fatrelu'" in card
