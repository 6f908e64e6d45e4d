# SPDX-License-Identifier: Apache-2.0
import copy
import functools
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, TrainingArguments

from prosparse.errors import UserError
from prosparse.training import distillation
from prosparse.training.distillation import DistillationPlan, Distiller, divergence, learned
from tests.conftest import tiny_llama

KINDS = [{"temperature": 2.0, "weight": 0.4}, {"kind": "hidden", "weight": 0.3}]


def logits(seed: int, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(37, 101, generator=generator)).to(dtype)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("chunk", [5, 37, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_kullback_leibler_divergence_and_its_gradient(
    monkeypatch, temperature, chunk, dtype
):
    monkeypatch.setattr(distillation, "CHUNK", chunk)
    student, teacher = logits(0).requires_grad_(), logits(1, dtype)
    learned_T = torch.arange(37) % 3 != 0
    mine = divergence(student, teacher, learned_T, temperature)
    (gradient,) = torch.autograd.grad(0.7 * mine, student)
    expected = temperature**2 * functional.kl_div(
        (student[learned_T] / temperature).log_softmax(-1),
        (teacher.float()[learned_T] / temperature).log_softmax(-1),
        reduction="sum",
        log_target=True,
    )
    (by_hand,) = torch.autograd.grad(0.7 * expected, student)
    torch.testing.assert_close(mine, expected)
    torch.testing.assert_close(gradient, by_hand, rtol=1e-4, atol=1e-6)
    assert not gradient[~learned_T].any()


def test_compiled_it_is_the_same(monkeypatch):
    monkeypatch.setattr(distillation, "CHUNK", 16)
    student, teacher = logits(0).requires_grad_(), logits(1, torch.bfloat16)
    learned_T = torch.arange(37) % 3 != 0
    plain, compiled = (divergence(student, teacher, learned_T, 2.5, way) for way in (False, True))
    torch.testing.assert_close(compiled, plain)
    gradients = [torch.autograd.grad(0.7 * of, student)[0] for of in (plain, compiled)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_nothing_as_large_as_the_logits_is_made_in_float32(monkeypatch):
    """Of what the operations of both passes return, only the gradient has the logits' size."""
    monkeypatch.setattr(distillation, "CHUNK", 4)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype == torch.float32:
                sizes.append(out.numel())
            return out

    student, teacher = logits(0, torch.bfloat16).requires_grad_(), logits(1, torch.bfloat16)
    with Watch():
        divergence(student, teacher, torch.ones(37, dtype=torch.bool), 1.0).backward()
    assert max(sizes) == 4 * 101


def test_a_token_is_learned_where_the_next_label_counts():
    labels = torch.tensor([[-100, 5, -100, 7], [1, 2, 3, -100]])
    assert learned(labels).tolist() == [[True, False, True, False], [True, True, False, False]]


@pytest.fixture
def plain(plain_data) -> dict:
    plain_data["training"]["micro_batch_size"] = 8
    return plain_data


def variant(data: dict, name: str, plan: dict | None = None, **training) -> dict:
    data = copy.deepcopy(data)
    data["out"] += f"-{name}"
    data["training"].update(training)
    return data if plan is None else {**data, "distillation": plan}


def test_the_first_step_by_hand(run, plain, checkpoint):
    """Loss and distance are those of both models on the batch; zeros are the student's alone."""
    without = run(plain)
    line = run(variant(plain, "taught", {"weight": 0.4, "temperature": 2.0})).log[0]
    first = without.log[0]
    for key in ("loss", "l1", "sparsity", "layer_sparsity"):
        assert line[key] == first[key]
    assert line["distillation"] > 0.01
    assert line["grad_norm"] != first["grad_norm"]


def test_a_model_that_is_its_own_teacher_is_at_no_distance(run, plain):
    data = variant(plain, "same", {"weight": 1.0})
    data["relufy"] = None
    data["regularization"]["stages"] = [{"until": 1, "factor": 0}]
    (line,) = run(data).log
    assert line["distillation"] == pytest.approx(0, abs=1e-6)
    assert line["grad_norm"] == pytest.approx(0, abs=1e-5)  # weight 1: the text has no part


@pytest.mark.parametrize("plan", KINDS, ids=["logits", "hidden"])
def test_it_brings_the_model_closer_to_its_teacher(run, plain, plan):
    plain["regularization"]["stages"] = [{"until": 30, "factor": 0}]
    taught = run(variant(plain, "taught", {**plan, "weight": 1.0}))
    assert taught.log[-1]["distillation"] < 0.8 * taught.log[0]["distillation"]


@pytest.mark.invariant
@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("plan", KINDS, ids=["logits", "hidden"])
def test_how_a_step_is_computed_changes_no_number(run, plain, plan):
    whole = run(variant(plain, "whole", plan))
    assert whole.log[-1]["distillation"] > 0
    parts = {"micro_batch_size": 2, "gradient_accumulation": 4}
    run(variant(plain, "parts", plan, **parts)).assert_close(whole)
    run(variant(plain, "again", plan, gradient_checkpointing=True)).assert_close(whole)


@pytest.mark.invariant
@pytest.mark.parametrize("plan", KINDS, ids=["logits", "hidden"])
def test_compiled_is_eager(run, plain, plan, monkeypatch):
    eager = run(variant(plain, "eager", plan))
    torch.compiler.reset()
    arguments = functools.partial(TrainingArguments, torch_compile_backend="aot_eager")
    monkeypatch.setattr("prosparse.training.arguments.TrainingArguments", arguments)
    compile_ = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr("prosparse.training.distillation.torch.compile", compile_)
    run(variant(plain, "compiled", plan, compile=True)).assert_close(eager)


@pytest.mark.invariant
@pytest.mark.parametrize("plan", KINDS, ids=["logits", "hidden"])
def test_two_processes_are_one(run, start, finished, plain, plan):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    halved = variant(plain, "halved", plan, micro_batch_size=2, gradient_accumulation=2)
    process = start(halved, launcher=launcher)
    whole = run(variant(plain, "whole", plan))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    finished(Path(halved["out"])).assert_close(whole)


@pytest.mark.parametrize("plan", KINDS, ids=["logits", "hidden"])
def test_the_teacher_is_frozen_and_nothing_of_it_stays(plan, checkpoint):
    teacher, student = (AutoModelForCausalLM.from_pretrained(checkpoint) for _ in range(2))
    teacher.train()
    found = Distiller(DistillationPlan(**plan), teacher, student)
    ids = torch.randint(1, 257, (2, 16))
    for parameter in student.parameters():
        parameter.data *= 1.1
    hidden = {}
    for name, model in (("student", student), ("teacher", teacher)):
        hidden[name] = model(input_ids=ids, output_hidden_states=True)
    with found.attached():
        logits = student(input_ids=ids).logits
        distance = found.distance({"input_ids": ids, "labels": ids}, logits)
    q, p = (hidden[name].logits[:, :-1] for name in ("student", "teacher"))
    if plan.get("kind") == "hidden":
        h, g = (hidden[name].hidden_states[-1][:, :-1] for name in ("student", "teacher"))
        expected = ((h - g).norm(dim=-1) / g.norm(dim=-1)).square().sum()
    else:
        expected = 4 * functional.kl_div(
            (q / 2).log_softmax(-1), (p / 2).softmax(-1), reduction="sum"
        )
    torch.testing.assert_close(distance, expected)
    assert distance > 0
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not student.lm_head._forward_pre_hooks
    assert not found._hidden


def test_a_teacher_of_another_shape_is_refused():
    student = tiny_llama()
    with pytest.raises(UserError, match="The teacher's vocabulary is 300 and the model's 257"):
        Distiller(DistillationPlan(), tiny_llama(vocab_size=300), student)
    with pytest.raises(UserError, match="The teacher's hidden size is 16 and the model's 32"):
        Distiller(DistillationPlan(kind="hidden"), tiny_llama(hidden_size=16), student)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"weight": 0}, "weight must be above 0 and at most 1; found 0"),
        ({"weight": 1.5}, "found 1.5"),
        ({"temperature": 0}, "temperature must be > 0"),
        ({"kind": "hidden", "temperature": 2.0}, "applies to 'kind: logits' only"),
    ],
)
def test_impossible_plans(plan, message):
    with pytest.raises(UserError, match=message):
        DistillationPlan(**plan)
