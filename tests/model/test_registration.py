# SPDX-License-Identifier: Apache-2.0
"""After `import prosparse`, stock transformers loads our activations with their numbers."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import prosparse as ps
from prosparse.model.activation import FATReLU
from prosparse.model.registration import register

IDS = torch.arange(12)[None]
PROSPARSE_FIRST = """
import prosparse
from transformers import AutoModelForCausalLM
"""
TRANSFORMERS_FIRST = """
from transformers import AutoModelForCausalLM, LlamaForCausalLM
import prosparse
"""
STOCK_LOADING = """
import sys, torch
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
with torch.no_grad():
    torch.save(model(torch.arange(12)[None]).logits, sys.argv[2])
"""


@pytest.fixture(scope="module")
def shifted(checkpoint, tmp_path_factory):
    """A FATReLU checkpoint with a threshold that matters."""
    folder = tmp_path_factory.mktemp("registration") / "fatrelu"
    ps.relufy(checkpoint, out=folder, activation="fatrelu", threshold=0.3)
    return folder


def with_config(folder, copy, **changes):
    """Copy a checkpoint; None removes a key."""
    shutil.copytree(folder, copy)
    config = {**json.loads((copy / "config.json").read_text()), **changes}
    config = {key: value for key, value in config.items() if value is not None}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize("imports", [PROSPARSE_FIRST, TRANSFORMERS_FIRST], ids=["first", "second"])
def test_stock_transformers_loads_the_same_model(imports, shifted, relu_checkpoint, tmp_path):
    script = [sys.executable, "-c", imports + STOCK_LOADING, shifted, tmp_path / "logits.pt"]
    subprocess.run(script, check=True, capture_output=True)
    found = torch.load(tmp_path / "logits.pt")
    assert torch.equal(found, logits(ps.load(shifted)))
    assert not torch.allclose(found, logits(ps.load(relu_checkpoint)))


def test_every_layer_gets_the_threshold_of_the_config(shifted):
    model = AutoModelForCausalLM.from_pretrained(shifted)
    found = [m.param for m in model.modules() if isinstance(m, FATReLU)]
    assert found == [0.3] * model.config.num_hidden_layers


def test_a_model_built_from_a_config_gets_it_too(shifted):
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(shifted))
    assert {m.param for m in model.modules() if isinstance(m, FATReLU)} == {0.3}


def test_the_keys_survive_another_save(shifted, tmp_path):
    AutoModelForCausalLM.from_pretrained(shifted).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["hidden_act"], config["hidden_act_param"]) == ("fatrelu", 0.3)


@pytest.mark.parametrize("param", [None, "a lot"])
@pytest.mark.parametrize("loader", [ps.load, AutoModelForCausalLM.from_pretrained])
def test_a_threshold_that_is_missing_or_no_number_is_one_clear_error(
    loader, param, shifted, tmp_path
):
    folder = with_config(shifted, tmp_path / "broken", hidden_act_param=param)
    expected = f"FATReLU activation but its hidden_act_param is {param!r}; set hidden_act_param in"
    with pytest.raises(ps.UserError, match=expected):
        loader(folder)


def test_registering_twice_changes_nothing():
    from transformers import PreTrainedModel

    before = PreTrainedModel.post_init
    register()
    assert PreTrainedModel.post_init is before
