# SPDX-License-Identifier: Apache-2.0
"""LoRA: only adapters learn, and the checkpoint that is left is a plain one."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

import prosparse as ps
from prosparse.errors import UserError
from prosparse.model.checkpoint import load
from prosparse.records.codec import decode
from prosparse.training.adapters import LoraPlan
from prosparse.training.dry_run import dry_run
from prosparse.training.recipe import Recipe

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")


@pytest.fixture
def lora(recipe_data) -> dict:
    recipe_data["lora"] = {"rank": 4, "alpha": 8}
    recipe_data["training"]["learning_rate"] = 1e-2
    return recipe_data


@needs_peft
def test_only_layers_with_adapters_change_and_nothing_of_peft_is_left(run, lora, checkpoint):
    done = run(lora)
    before, after = load(checkpoint).state_dict(), done.weights
    assert {n for n in after if not torch.equal(after[n], before[n])} == {
        n for n in before if "proj" in n
    }
    model = load(done.folder)  # stock transformers: refuses what is missing
    assert model.config.hidden_act == "relu"
    data = lora["measure"]["data"]
    measured = ps.measure(
        done.folder, {name: source["path"] for name, source in data.items()},
        tokens=128, context_length=32, device="cpu", precision="float32", progress=False,
    )  # fmt: skip
    last = done.record.milestones[-1]
    assert measured.data[0].loss == pytest.approx(last.data[0].loss, rel=1e-5)
    assert last.data[0].loss != done.record.milestones[1].data[0].loss


@needs_peft
def test_before_the_first_update_it_is_the_model_itself(run, plain_data):
    """An adapter begins as zero: the loss, the penalty and the counts are those without any."""
    plain_data["regularization"]["stages"] = [{"until": 1, "factor": 1.0}]
    other = copy.deepcopy(plain_data)
    other.update(out=plain_data["out"] + "-lora", lora={})
    (without,), (with_lora,) = run(plain_data).log, run(other).log
    for key in ("loss", "l1", "regularization", "layer_sparsity", "tokens"):
        assert with_lora[key] == without[key], key


@needs_peft
def test_named_layers_alone_are_trained(run, lora, checkpoint):
    lora["lora"]["target_modules"] = ["down_proj"]
    done = run(lora)
    before = load(checkpoint).state_dict()
    changed = {n for n, w in done.weights.items() if not torch.equal(w, before[n])}
    assert changed == {n for n in before if "down_proj" in n}


@needs_peft
@pytest.mark.invariant
def test_resumed_is_uninterrupted(run, lora):
    lora["lora"]["dropout"] = 0.1
    whole = run({**copy.deepcopy(lora), "out": lora["out"] + "-whole"})

    class Crash(Exception):
        pass

    def crash(milestone) -> None:
        if milestone.label == "stage 1":
            raise Crash

    with pytest.raises(Crash):
        run(lora, on_milestone=crash)
    resumed = run(lora, resume=True)
    resumed.assert_same(whole)
    assert resumed.record.milestones == whole.record.milestones


@needs_peft
def test_a_layer_that_is_not_there_is_named(run, lora):
    lora["lora"]["target_modules"] = ["no_proj"]
    with pytest.raises(UserError, match=r"lora\.target_modules: .*no_proj"):
        run(lora)


@needs_peft
def test_a_dry_run_counts_adapters(lora):
    plan = dry_run(decode(Recipe, lora, "here"))
    # Two layers: q, o [32, 32], k, v [16, 32], gate, up [48, 32], down [32, 48]; rank 4.
    adapters = 2 * 4 * (2 * (32 + 32) + 2 * (16 + 32) + 3 * (48 + 32))
    assert plan.num_trained == adapters
    assert plan.d_ff == 48
    assert plan.state_bytes == 4 * plan.num_parameters + 16 * adapters
    assert plan.checkpoint_bytes == 3 * (4 * plan.num_parameters + 12 * adapters)


def test_without_peft_it_is_one_sentence_before_anything_begins(run, lora, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else find_spec(name)
    )
    with pytest.raises(UserError, match=r"needs peft: pip install 'prosparse\[lora\]'"):
        run(lora)
    assert not Path(lora["out"] + ".unfinished").exists()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"rank": 0}, "rank must be at least 1; found 0"),
        ({"alpha": 0.0}, "alpha must be > 0"),
        ({"dropout": 1.0}, "dropout must be >= 0 and < 1"),
    ],
)
def test_impossible_numbers(numbers, message):
    with pytest.raises(UserError, match=message):
        LoraPlan(**numbers)
