# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from prosparse.errors import UserError
from prosparse.measurement.perplexity import Windows
from prosparse.training.milestones import Milestones


@pytest.fixture
def model(relu_checkpoint):
    return AutoModelForCausalLM.from_pretrained(relu_checkpoint)


@pytest.fixture
def held_out() -> list[Windows]:
    random = torch.Generator().manual_seed(0)
    return [
        Windows("prose", "prose.jsonl", torch.randint(1, 257, (3, 16), generator=random)),
        Windows("code", "code.jsonl", torch.randint(1, 257, (1, 16), generator=random)),
    ]


@pytest.fixture
def milestones(tmp_path, held_out):
    """Make milestones on one file, as each process of a run does."""

    def milestones(tell=None, held_out=held_out):
        return Milestones(tmp_path / "milestones.jsonl", held_out, "float32", tell, False)

    return milestones


def reach(milestones: Milestones, model, *steps: int) -> None:
    for step in steps:
        milestones.measure(
            f"stage {step}", model, step=step, factor=step / 10, tokens_seen=64 * step
        )


def test_a_milestone_says_where_the_run_stood_and_what_was_measured(milestones, model):
    told = []
    reach(milestones(told.append), model, 3)
    (milestone,) = told
    assert (milestone.label, milestone.step, milestone.factor) == ("stage 3", 3, 0.3)
    assert milestone.tokens_seen == 192
    assert milestone.activation.name == "relu"
    assert [measure.data for measure in milestone.data] == ["prose", "code"]
    # pooled over tokens: prose has three windows, code one
    prose, code = milestone.data
    assert milestone.layer_sparsity[1] == pytest.approx(
        (3 * prose.layer_sparsity[1] + code.layer_sparsity[1]) / 4
    )
    assert milestone.sparsity == pytest.approx(sum(milestone.layer_sparsity) / 2)


def test_what_was_reached_is_told_again_when_a_run_resumes(milestones, model):
    reached, told = milestones(), []
    reach(reached, model, 1, 2)
    resumed = milestones(told.append)
    resumed.restore(2)
    assert repr(told) == repr(reached.reached)  # NaN, the error of one window, equals nothing
    assert repr(resumed.reached) == repr(told)


def test_what_was_reached_is_not_measured_again(milestones, model):
    told = []
    reach(milestones(), model, 1)
    resumed = milestones(told.append)
    resumed.restore(1)
    assert resumed.has("stage 1")
    assert not resumed.has("stage 2")
    reach(resumed, model, 1, 2)
    assert [milestone.label for milestone in told] == ["stage 1", "stage 2"]


def test_milestones_after_the_last_checkpoint_are_forgotten(milestones, model, tmp_path):
    told = []
    reach(milestones(), model, 1, 2, 3)
    milestones(told.append).restore(2)
    assert [milestone.step for milestone in told] == [1, 2]
    lines = (tmp_path / "milestones.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_a_new_run_has_reached_nothing(milestones):
    fresh = milestones()
    fresh.restore(0)
    assert fresh.reached == []


def test_nothing_held_out_makes_no_milestone(milestones, model):
    told = []
    reach(milestones(told.append, held_out=[]), model, 1)
    assert told == []


def test_measuring_leaves_the_model_in_training_mode(milestones, model):
    model.train()
    reach(milestones(), model, 1)
    assert model.training


def test_a_milestone_of_another_version_is_named_with_its_file(milestones, tmp_path):
    (tmp_path / "milestones.jsonl").write_text('{"label": "stage 0", "steps": 3}\n')
    with pytest.raises(UserError, match="milestones.jsonl: steps is not a known key"):
        milestones().restore(5)


@pytest.mark.parametrize(("max_drop", "warns"), [(0.01, True), (0.9, False), (None, False)])
def test_sparsity_that_falls_below_the_start_is_warned_of(
    milestones, model, checkpoint, caplog, max_drop, warns
):
    watched = milestones()
    watched._max_drop = max_drop
    watched.measure("original", model, step=0, factor=0.1, tokens_seen=0)
    watched.measure("step 3", model, step=3, factor=0.1, tokens_seen=9)
    assert caplog.text == ""
    dense = AutoModelForCausalLM.from_pretrained(checkpoint)
    watched.measure("step 6", dense, step=6, factor=0.1, tokens_seen=18)
    assert ("sparsity has fallen to 0.00 % at step 6, from" in caplog.text) == warns
