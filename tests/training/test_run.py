# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prosparse.errors import UserError
from prosparse.records.files import read_log, read_record
from prosparse.records.lock import alone

LOG_KEYS = {
    *("step", "tokens", "loss", "regularization", "l1", "factor", "coefficient", "sparsity"),
    *("layer_sparsity", "learning_rate", "grad_norm", "tokens_per_second", "seconds"),
}

# Loads a checkpoint as somebody would who has never heard of us.
STOCK = """
import json, sys, torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
logits = model(torch.arange(1, 33)[None]).logits
print(json.dumps({
    "hidden_act": model.config.hidden_act,
    "use_cache": model.config.use_cache,
    "activation": type(model.model.layers[0].mlp.act_fn).__name__,
    "sum": logits.double().sum().item(),
    "problems": sum(len(names) for names in info.values()),
    "prosparse": "prosparse" in sys.modules,
}))
"""


@pytest.fixture
def done(run, recipe_data):
    return run(recipe_data)


def test_a_finished_run_leaves_a_checkpoint_its_record_and_its_log(done):
    assert {path.name for path in done.folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "README.md"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("record.json", "recipe.yaml", "log.jsonl"),
    }
    assert [path.name for path in done.folder.parent.iterdir()] == ["run"]


def test_the_record_says_what_was_done(done, recipe_data):
    record = done.record
    assert read_record(done.folder) == record
    assert record.model == recipe_data["model"]
    assert record.recipe["training"]["beta2"] == 0.95  # every default filled in
    assert record.activation.name == "relu"
    assert (record.num_steps, record.tokens_per_step, record.num_tokens) == (6, 64, 384)
    assert record.precision == "float32"
    assert record.provenance.seed == 0
    assert record.tokens_per_second == pytest.approx(record.num_tokens / record.seconds)

    stage = record.stages[2]
    assert (stage.name, stage.first_step, stage.last_step) == ("stage 2", 5, 6)
    assert (stage.start_factor, stage.end_factor) == (0.1, 1.0)
    assert stage.end_coefficient == pytest.approx(1.0 / 48)  # kappa = 1 / F
    assert stage.end_tokens == 384


def test_milestones_tell_the_story_from_dense_to_sparse(done):
    milestones = done.record.milestones
    assert [milestone.label for milestone in milestones] == [
        *("original", "ReLU, untrained", "stage 0", "stage 1", "stage 2")
    ]
    assert [milestone.activation.name for milestone in milestones] == ["silu"] + ["relu"] * 4
    assert [milestone.step for milestone in milestones] == [0, 0, 2, 4, 6]
    assert [milestone.tokens_seen for milestone in milestones] == [0, 0, 128, 256, 384]
    assert [milestone.factor for milestone in milestones] == pytest.approx([0, 0, 0, 0.1, 1.0])
    assert milestones[0].sparsity == 0
    assert all(0.3 < milestone.sparsity < 0.7 for milestone in milestones[1:])
    assert [measure.data for measure in milestones[0].data] == ["prose", "code"]
    assert all(measure.num_tokens == 128 for measure in milestones[0].data)
    assert milestones[-1].data[0].loss < milestones[1].data[0].loss


def test_the_log_has_a_line_for_each_step(done):
    lines = read_log(done.folder / "log.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["tokens"] for line in lines] == [64, 128, 192, 256, 320, 384]
    assert all(line.keys() == LOG_KEYS for line in lines)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert done.record.seconds >= seconds[-1] > 0


def test_the_recipe_beside_it_trains_the_same_again(done, run):
    data = yaml.safe_load((done.folder / "recipe.yaml").read_text())
    data["out"] += "-again"
    run(data).assert_same(done)


def test_the_checkpoint_is_a_relu_model_to_stock_transformers(done):
    output = subprocess.run(
        [sys.executable, "-c", STOCK, str(done.folder)], capture_output=True, text=True, check=True
    ).stdout
    seen = json.loads(output.splitlines()[-1])
    assert seen.pop("sum") == pytest.approx(
        AutoModelForCausalLM.from_pretrained(done.folder)(torch.arange(1, 33)[None])
        .logits.double()
        .sum()
        .item()
    )
    assert seen == {
        "hidden_act": "relu",
        "use_cache": True,
        "activation": "ReLU",
        "problems": 0,
        "prosparse": False,
    }


def test_the_model_card_says_how_it_was_made(done):
    card = (done.folder / "README.md").read_text()
    assert (
        "Trained for 384 tokens in 6 steps of 64, final lambda 1 (c = 0.0208), on prose (`" in card
    )
    assert "128 tokens of prose" in card


def test_a_bfloat16_checkpoint_is_trained_in_float32(run, plain_data, checkpoint, tmp_path):
    coarse, same = tmp_path / "bfloat16", tmp_path / "float32"
    for folder in (coarse, same):
        shutil.copytree(checkpoint, folder)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    model.save_pretrained(coarse)
    model.float().save_pretrained(same)
    weights = load_file(coarse / "model.safetensors").values()
    assert {weight.dtype for weight in weights} == {torch.bfloat16}

    trained = run({**plain_data, "model": str(coarse), "out": str(tmp_path / "run-coarse")})
    trained.assert_same(run({**plain_data, "model": str(same), "out": str(tmp_path / "run-same")}))
    assert {weight.dtype for weight in trained.weights.values()} == {torch.float32}
    head = trained.weights["lm_head.weight"]
    assert not torch.equal(head, head.bfloat16().float())  # small updates were kept
    assert AutoModelForCausalLM.from_pretrained(trained.folder).dtype == torch.float32


def test_bfloat16_autocast_keeps_float32_weights(run, plain_data):
    plain_data["training"]["precision"] = "bfloat16"
    trained = run(plain_data)
    assert trained.record.precision == "bfloat16"
    assert {weight.dtype for weight in trained.weights.values()} == {torch.float32}
    assert trained.log[-1]["loss"] < trained.log[0]["loss"]


@pytest.mark.parametrize(
    ("relufy", "name", "label"),
    [
        ({"activation": "fatrelu", "threshold": 0.05}, "fatrelu", "FATReLU, untrained"),
        ({"activation": "shifted-relu", "bias": 0.05}, "shifted_relu", "shifted ReLU, untrained"),
    ],
)
def test_other_activations_are_trained_and_named(run, recipe_data, relufy, name, label):
    del recipe_data["threshold"]
    trained = run({**recipe_data, "relufy": relufy})
    config = json.loads((trained.folder / "config.json").read_text())
    assert (config["hidden_act"], config["hidden_act_param"]) == (name, 0.05)
    assert trained.record.milestones[1].label == label
    assert {m.activation.param for m in trained.record.milestones[1:]} == {0.05}


@pytest.mark.usefixtures("path")
def test_without_relufy_the_dense_model_is_trained_on_as_a_control(run, recipe_data):
    recipe_data["regularization"]["stages"] = [{"until": 6, "factor": 0}]
    done = run({**recipe_data, "relufy": None, "threshold": None})
    assert json.loads((done.folder / "config.json").read_text())["hidden_act"] == "silu"
    assert done.record.activation.name == "silu"
    assert [m.label for m in done.record.milestones] == ["original", "stage 0"]
    assert done.record.milestones[-1].sparsity < 0.01
    assert done.log[-1]["loss"] < done.log[0]["loss"]
    assert [line["regularization"] for line in done.log] == [0] * 6


def test_without_relufy_a_dense_model_is_not_penalized(run, plain_data):
    with pytest.raises(UserError, match="'relufy: null' keeps silu, which has no zeros"):
        run({**plain_data, "relufy": None})


def test_without_relufy_a_sparse_model_stays_what_it_is(run, plain_data, relu_checkpoint):
    done = run({**plain_data, "relufy": None, "model": str(relu_checkpoint)})
    assert done.record.activation.name == "relu"


def test_a_summed_lambda_is_scaled_by_its_reference_tokens(run, plain_data):
    plain_data["regularization"].update(normalization="summed", reference_tokens=16384)
    trained = run(plain_data)
    assert trained.record.stages[-1].end_coefficient == pytest.approx(1e-8 * 16384)
    last = trained.log[-1]
    assert last["regularization"] == pytest.approx(1e-8 * 16384 * last["l1"], rel=1e-5)


def test_nothing_is_printed_without_a_progress_bar(run, plain_data, capfd):
    run(plain_data)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "training" not in printed.err


def test_an_existing_folder_is_refused_before_anything_is_loaded(run, plain_data, monkeypatch):
    monkeypatch.delattr("prosparse.training.starting_model.load")
    Path(plain_data["out"]).mkdir()
    with pytest.raises(UserError, match="already exists"):
        run(plain_data)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda data: data.update(model="/no/model"), "No model at /no/model"),
        (
            lambda data: data["data"]["components"]["code"].update(path="/no/code.jsonl"),
            "'code': /no/code.jsonl does not exist",
        ),
        (
            lambda data: data["measure"]["data"]["prose"].update(path="/no/prose.jsonl"),
            "'prose': /no/prose.jsonl does not exist",
        ),
    ],
    ids=["model", "training data", "held-out data"],
)
def test_what_is_missing_is_named_before_a_folder_is_made(run, recipe_data, place, message):
    place(recipe_data)
    with pytest.raises(UserError, match=message):
        run(recipe_data)
    assert list(Path(recipe_data["out"]).parent.iterdir()) == []


def test_overwrite_replaces_a_finished_run(run, plain_data, done):
    assert "seed: 0" in (done.folder / "recipe.yaml").read_text()
    plain_data["training"]["seed"] = 5
    run(plain_data, overwrite=True)
    assert "seed: 5" in (done.folder / "recipe.yaml").read_text()
    assert [path.name for path in done.folder.parent.iterdir()] == ["run"]


def test_a_run_that_another_process_works_on_is_refused(run, recipe_data):
    with (
        alone(Path(recipe_data["out"]), wait=False),
        pytest.raises(UserError, match="Another process is working on"),
    ):
        run(recipe_data)


def test_runs_share_tokenized_text(run, recipe_data, tmp_path):
    recipe_data["data"]["token_store"] = str(tmp_path / "tokens")
    first = run(recipe_data)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").rglob("tokens.bin")}
    assert written
    second = run({**recipe_data, "out": f"{recipe_data['out']}-2"})
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert [m.sparsity for m in second.record.milestones] == [
        m.sparsity for m in first.record.milestones
    ]


def test_shared_text_is_never_replaced(run, recipe_data, tmp_path):
    recipe_data["data"]["token_store"] = str(tmp_path / "tokens")
    run(recipe_data)
    written = {path: path.read_bytes() for path in (tmp_path / "tokens").rglob("tokens.bin")}
    for name, component in recipe_data["data"]["components"].items():
        other = tmp_path / f"other-{name}.jsonl"
        shutil.copy(component["path"], other)
        component["path"] = str(other)
    with pytest.raises(UserError, match="was made from other text .* choose another token_store"):
        run({**recipe_data, "out": f"{recipe_data['out']}-2"})
    assert {path: path.read_bytes() for path in written} == written
