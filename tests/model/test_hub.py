# SPDX-License-Identifier: Apache-2.0
"""What is pushed to the hub, by us or by transformers, loads from there to the same bits."""

import json

import pytest
import torch
from transformers import pipeline

import prosparse as ps
from prosparse.errors import UserError
from prosparse.model.checkpoint import save
from prosparse.model.relufy import relufy_in_place
from prosparse.records.sparsity import Activation
from tests.conftest import byte_tokenizer, tiny_llama
from tests.model.local_hub import local_hub

IDS = torch.arange(3, 15)[None]
LOAD = """
import sys
import torch, prosparse as ps
torch.set_num_threads(1)
model = ps.load("me/mine")
ps.load_tokenizer("me/mine")
with torch.no_grad():
    torch.save(model(torch.arange(3, 15)[None]).logits, sys.argv[1])
"""
LOAD_WITHOUT_PROSPARSE = """
import sys
sys.modules["prosparse"] = None
import torch
from transformers import pipeline
torch.set_num_threads(1)
write = pipeline("text-generation", model="me/mine", trust_remote_code=True, device="cpu")
print(write("abc", max_new_tokens=4)[0]["generated_text"])
with torch.no_grad():
    torch.save(write.model(torch.arange(3, 15)[None]).logits, sys.argv[1])
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with local_hub(tmp_path / "home") as hub:
        hub.use(monkeypatch)
        yield hub


@pytest.fixture
def model():
    model = tiny_llama()
    relufy_in_place(model, Activation("fatrelu", (0.3, 0.05)))
    return model


@pytest.fixture
def folder(model, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save(model, byte_tokenizer(), folder, base="owner/base", notes=["Trained on little."])
    for name in ("record.json", "recipe.yaml", "notes.txt"):
        (folder / name).write_text("{}")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "model.safetensors").write_text("")
    return folder


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def loaded(hub, tmp_path, script=LOAD):
    done = hub.run(script, tmp_path / "logits.pt")
    assert done.returncode == 0, done.stderr
    return torch.load(tmp_path / "logits.pt"), done.stdout


def test_pushed_it_loads_with_and_without_prosparse(hub, folder, model, tmp_path):
    url = ps.push(folder, "mine", private=True)
    assert url.endswith("/me/mine")
    (made,) = hub.made
    assert made.get("visibility") == "private" or made.get("private") is True
    files = hub.repos["me/mine"]
    assert set(files) == {
        *("config.json", "generation_config.json", "model.safetensors", "README.md"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        "modeling_prosparse.py",
    }
    assert b"1. Trained on little.\n" in files["README.md"]
    assert torch.equal(loaded(hub, tmp_path)[0], logits(model))
    found, text = loaded(hub, tmp_path, LOAD_WITHOUT_PROSPARSE)
    assert torch.equal(found, logits(model))
    assert text.startswith("abc")


def test_the_record_goes_along_only_if_asked_for(hub, folder):
    ps.push(folder, "mine", with_record=True)
    assert {"record.json", "recipe.yaml"} <= set(hub.repos["me/mine"])
    assert "notes.txt" not in hub.repos["me/mine"]


def test_what_is_there_is_replaced_only_if_asked_for(hub, folder):
    ps.push(folder, "mine")
    hub.repos["me/mine"]["model.safetensors"] = b"precious"
    with pytest.raises(UserError, match="me/mine holds a model already"):
        ps.push(folder, "mine")
    assert hub.repos["me/mine"]["model.safetensors"] == b"precious"
    ps.push(folder, "mine", overwrite=True)
    assert hub.repos["me/mine"]["model.safetensors"] != b"precious"


def test_code_that_transformers_left_out_is_added(hub, folder, model, tmp_path):
    again = tmp_path / "again"
    ps.load(folder).save_pretrained(again)
    byte_tokenizer().save_pretrained(again)
    (again / "README.md").write_text("Mine.")
    before = (again / "config.json").read_text()
    assert "auto_map" not in json.loads(before)
    ps.push(again, "mine")
    found, _ = loaded(hub, tmp_path, LOAD_WITHOUT_PROSPARSE)
    assert torch.equal(found, logits(model))
    assert (again / "config.json").read_text() == before


def test_what_load_returns_is_pushed_whole_by_transformers(hub, folder, model, tmp_path):
    ps.load(folder).push_to_hub("mine")
    ps.load_tokenizer(folder).push_to_hub("mine")
    # Not the name of code that is not there.
    assert "auto_map" not in json.loads(hub.repos["me/mine"]["config.json"])
    assert torch.equal(loaded(hub, tmp_path)[0], logits(model))


def test_without_a_login_it_is_one_sentence(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(UserError) as refusal:
        ps.push(folder, "mine")
    assert str(refusal.value).startswith("The hub refuses mine: ")
    assert "hf auth login" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: folder / "nowhere", "is no folder"),
        (lambda folder: (folder / "README.md").unlink() or folder, "has no README.md; say there"),
        (lambda folder: (folder / "model.safetensors").unlink() or folder, "has no weights"),
        (lambda folder: (folder / "config.json").unlink() or folder, "has no config.json"),
    ],
)
def test_what_is_not_whole_is_refused(folder, change, words):
    with pytest.raises(UserError, match=words):
        ps.push(change(folder), "me/mine")


@pytest.mark.parametrize("granted", [{}, {"trust_remote_code": True}])
def test_a_pipeline_of_transformers_takes_the_folder(folder, model, granted):
    write = pipeline("text-generation", model=str(folder), device="cpu", **granted)
    assert torch.equal(logits(write.model), logits(model))
    text = write("abc", max_new_tokens=8, do_sample=False)[0]["generated_text"]
    assert text == "abc" + ps.generate(folder, "abc", max_new_tokens=8)


def test_names_and_hubs_that_are_not_there(folder):
    with pytest.raises(UserError, match="'a/b/c' cannot be the name of a repository"):
        ps.push(folder, "a/b/c")
    with pytest.raises(UserError, match="The hub cannot be reached"):  # tests are offline
        ps.push(folder, "me/mine")
