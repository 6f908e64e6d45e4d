# SPDX-License-Identifier: Apache-2.0
"""How a step is computed - in what pieces, where, compiled or not - changes no number."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import TrainingArguments

from prosparse.records.files import read_record
from prosparse.training.trainer import ProSparseTrainer

pytestmark = [pytest.mark.invariant, pytest.mark.usefixtures("path")]


def variant(data: dict, name: str, **training) -> dict:
    """Return the same recipe computed another way, in a folder of its own."""
    data = copy.deepcopy(data)
    data["out"] += f"-{name}"
    data["training"].update(training)
    return data


@pytest.fixture
def reference(run, plain_data):
    """Eight samples a step in one forward pass."""
    plain_data["training"]["micro_batch_size"] = 8
    return run(plain_data)


def test_the_reference_is_penalized_and_learns(reference):
    first, last = reference.log[0], reference.log[-1]
    assert last["loss"] < first["loss"]
    assert [line["regularization"] > 0 for line in reference.log] == [False] * 2 + [True] * 4


@pytest.mark.parametrize(("micro_batch_size", "accumulation"), [(1, 8), (4, 2)])
def test_batch_8_is_accumulation_8(run, plain_data, reference, micro_batch_size, accumulation):
    sizes = {"micro_batch_size": micro_batch_size, "gradient_accumulation": accumulation}
    run(variant(plain_data, "accumulated", **sizes)).assert_close(reference)


def test_a_model_with_a_loss_of_its_own_kind_is_penalized_alike(
    run, plain_data, reference, monkeypatch
):
    """Its loss is the mean of a micro-batch, and the Trainer divides the sum of ours and its."""

    class OwnLoss(ProSparseTrainer):
        def __init__(self, **kwargs) -> None:
            super().__init__(**kwargs)
            assert self.model_accepts_loss_kwargs  # what a Llama does, and this one does not
            self.model_accepts_loss_kwargs = False

    monkeypatch.setattr("prosparse.training.run.ProSparseTrainer", OwnLoss)
    sizes = {"micro_batch_size": 2, "gradient_accumulation": 4}
    run(variant(plain_data, "own-loss", **sizes)).assert_close(reference)


def test_gradient_checkpointing_changes_nothing(run, plain_data, reference):
    run(variant(plain_data, "checkpointed", gradient_checkpointing=True)).assert_close(reference)


def test_logging_less_often_logs_the_mean_of_the_steps_between(run, plain_data, reference):
    data = variant(plain_data, "terse", log_every=3, save_every=6)
    data["regularization"]["stages"] = [{"until": 2, "factor": 0}, {"until": 6, "factor": 0.1}]
    plain_data["regularization"] = data["regularization"]
    each = {line["step"]: line for line in run(variant(plain_data, "each")).log}
    lines = {line["step"]: line for line in run(data).log}
    assert list(lines) == [1, 2, 3, 6]  # the first step, the end of a stage, every third step
    for key in ("loss", "l1", "regularization", "sparsity"):
        assert lines[6][key] == pytest.approx((each[4][key] + each[5][key] + each[6][key]) / 3)
    assert lines[6]["tokens"] == each[6]["tokens"] == 6 * 8 * 32


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_is_eager(run, recipe_data, monkeypatch, backend):
    recipe_data["training"]["micro_batch_size"] = 8
    eager = run(recipe_data)
    torch.compiler.reset()
    counters.clear()
    arguments = functools.partial(TrainingArguments, torch_compile_backend=backend)
    monkeypatch.setattr("prosparse.training.arguments.TrainingArguments", arguments)
    compiled = run(variant(recipe_data, "compiled", compile=True))
    compiled.assert_close(eager)
    for mine, theirs in zip(compiled.record.milestones, eager.record.milestones, strict=True):
        assert mine.sparsity == pytest.approx(theirs.sparsity, abs=1e-3)
    # One graph for all steps: neither the hooks nor the measurements between stages compile another.
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_one_process_is_two(run, start, finished, recipe_data, path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    halved = variant(recipe_data, "halved", micro_batch_size=2, gradient_accumulation=2)
    options = ("--fused",) if path == "fused" else ()
    process = start(halved, *options, launcher=launcher)
    whole = run(variant(recipe_data, "whole", micro_batch_size=8))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    folder = Path(halved["out"])
    finished(folder).assert_close(whole)
    record = read_record(folder)
    assert record.tokens_per_step == whole.record.tokens_per_step == 8 * 32
    assert [m.label for m in record.milestones] == [m.label for m in whole.record.milestones]
    assert not folder.with_name(folder.name + ".unfinished").exists()
