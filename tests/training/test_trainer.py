# SPDX-License-Identifier: Apache-2.0
import copy
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, TrainerCallback, default_data_collator

from prosparse.errors import UserError
from prosparse.measurement.meter import SparsityMeter
from prosparse.model.ffn import ffns
from prosparse.records.codec import decode
from prosparse.records.files import read_log
from prosparse.training.arguments import training_arguments
from prosparse.training.recipe import Recipe
from prosparse.training.regularizer import kappa
from prosparse.training.trainer import ProSparseTrainer, refuse_liger_ffn

KAPPA = kappa("mean", 48, None)


def samples(lengths: list[int], width: int = 16) -> list[dict]:
    """Return samples of random tokens, padded on the right."""
    random = torch.Generator().manual_seed(2)
    made = []
    for length in lengths:
        ids = torch.randint(1, 257, (width,), generator=random)
        mask = torch.arange(width) < length
        labels = torch.where(mask, ids, -100)
        made.append({"input_ids": ids, "labels": labels, "attention_mask": mask.long()})
    return made


@pytest.fixture
def model(relu_checkpoint):
    return AutoModelForCausalLM.from_pretrained(relu_checkpoint)


@pytest.fixture
def trainer(model, plain_data, tmp_path):
    """Return a trainer of the tiny model on given samples."""

    def trainer(dataset: list[dict], stages: list[dict], **training) -> ProSparseTrainer:
        plain_data["regularization"]["stages"] = stages
        plain_data["training"].update({"save_every": 1000, "max_grad_norm": 0, **training})
        recipe = decode(Recipe, plain_data, "recipe.yaml")
        made = ProSparseTrainer(
            model=model,
            args=training_arguments(recipe, tmp_path / "checkpoints", "cpu", "float32"),
            train_dataset=dataset,
            data_collator=default_data_collator,
            schedule=recipe.regularization.schedule(),
            kappa=KAPPA,
            log_path=tmp_path / "log.jsonl",
        )
        made.clock.start()
        return made

    return trainer


@pytest.fixture
def log(tmp_path):
    return lambda: read_log(tmp_path / "log.jsonl")


class Gradients(TrainerCallback):
    """Keeps the gradients of the first optimizer step."""

    def __init__(self) -> None:
        self.of: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs) -> None:
        if not self.of:
            self.of = {name: p.grad.clone() for name, p in model.named_parameters()}


def by_hand(model, batch: dict, factor: float, intermediates) -> dict:
    """Return what one step over a padded batch must log, and its gradients."""
    ids_BS, mask_BS = batch["input_ids"], batch["attention_mask"].bool()
    x1_L = [x1[mask_BS] for x1 in intermediates(model, ids_BS, mask_BS.long())]
    logits = model(input_ids=ids_BS, attention_mask=mask_BS.long()).logits
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    l1 = sum(x1.abs().sum() for x1 in x1_L) / mask_BS.sum()
    parameters = dict(model.named_parameters())
    total = loss + factor / 48 * l1
    gradients = torch.autograd.grad(total, parameters.values())
    return {
        "tokens": mask_BS.sum().item(),
        "loss": loss.item(),
        "l1": l1.item(),
        "total": total.item(),
        "layer_sparsity": [(x1 == 0).float().mean().item() for x1 in x1_L],
        "gradients": dict(zip(parameters, gradients, strict=True)),
    }


@pytest.mark.invariant
@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(("size", "accumulation"), [(4, 1), (1, 4)], ids=["whole", "accumulated"])
def test_a_step_minimizes_cross_entropy_plus_the_penalty_of_its_real_tokens(
    trainer, model, log, intermediates, size, accumulation
):
    dataset = samples([16, 3, 9, 14])
    expected = by_hand(
        copy.deepcopy(model).train(), default_data_collator(dataset), 2.0, intermediates
    )
    made = trainer(
        dataset,
        [{"until": 1, "factor": 2.0}],
        micro_batch_size=size,
        gradient_accumulation=accumulation,
    )
    gradients = Gradients()
    made.add_callback(gradients)
    made.train()

    (line,) = log()
    assert line["tokens"] == expected["tokens"] == 42
    assert line["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert line["l1"] == pytest.approx(expected["l1"], rel=1e-5)
    assert line["regularization"] == pytest.approx(2.0 / 48 * expected["l1"], rel=1e-5)
    assert line["factor"] == 2.0
    assert line["coefficient"] == pytest.approx(2.0 / 48)
    assert line["layer_sparsity"] == pytest.approx(expected["layer_sparsity"], rel=1e-5)
    assert line["sparsity"] == pytest.approx(sum(expected["layer_sparsity"]) / 2, rel=1e-5)
    for name, gradient in expected["gradients"].items():
        torch.testing.assert_close(gradients.of[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    # What transformers logs is what was minimized.
    assert made.state.log_history[0]["loss"] == pytest.approx(expected["total"], rel=1e-5)


@pytest.mark.usefixtures("path")
def test_without_a_penalty_only_cross_entropy_is_minimized(trainer, model, log, intermediates):
    dataset = samples([16, 16])
    batch = default_data_collator(dataset)
    expected = by_hand(copy.deepcopy(model).train(), batch, 0.0, intermediates)
    made = trainer(dataset, [{"until": 1, "factor": 0}], micro_batch_size=2)
    gradients = Gradients()
    made.add_callback(gradients)
    made.train()
    assert log()[0]["regularization"] == 0
    assert log()[0]["l1"] == pytest.approx(expected["l1"], rel=1e-5)  # watched all the same
    for name, gradient in expected["gradients"].items():
        torch.testing.assert_close(gradients.of[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.usefixtures("path")
def test_the_logged_sparsity_is_what_the_meter_counts(trainer, model, log):
    dataset = samples([16, 16])
    meter = SparsityMeter(ffns(model), torch.device("cpu"))
    with meter.watch(), torch.no_grad():
        model(input_ids=default_data_collator(dataset)["input_ids"])
    trainer(dataset, [{"until": 1, "factor": 0}], micro_batch_size=2).train()
    assert log()[0]["layer_sparsity"] == pytest.approx(list(meter.layer_sparsity()), rel=1e-12)


@pytest.mark.usefixtures("path")
def test_each_step_is_penalized_with_its_own_lambda(trainer, log):
    stages = [{"until": 2, "factor": 0}, {"until": 3, "factor": 0.5}, {"until": 6, "factor": 2}]
    made = trainer(samples([16] * 6), stages, micro_batch_size=1)
    made.train()
    factors = [made.schedule.factor(step) for step in range(1, 7)]
    assert [line["factor"] for line in log()] == factors
    penalties = [line["regularization"] / line["l1"] / KAPPA for line in log()]
    assert penalties == pytest.approx(factors, rel=1e-5)


@pytest.mark.usefixtures("path")
def test_tokens_are_counted_as_they_come(trainer, log):
    made = trainer(samples([16, 3, 9, 14]), [{"until": 4, "factor": 1}], micro_batch_size=1)
    made.train()
    assert [line["tokens"] for line in log()] == [16, 19, 28, 42]
    assert all(0.2 < line["sparsity"] < 0.8 for line in log())


@pytest.mark.usefixtures("path")
def test_the_model_is_its_own_again(trainer, model):
    before = [type(module) for module in model.modules()]
    trainer(samples([16, 16]), [{"until": 1, "factor": 1}], micro_batch_size=2).train()
    assert [type(module) for module in model.modules()] == before
    assert not any(ffn.down._forward_pre_hooks for ffn in ffns(model))


@pytest.mark.parametrize(
    "config", [None, {}, {"swiglu": False}, {"geglu": False}, {"swiglu": True}]
)
def test_liger_s_ffn_kernels_are_refused(config):
    with pytest.raises(UserError, match='"swiglu": False, "geglu": False'):
        refuse_liger_ffn(SimpleNamespace(use_liger_kernel=True, liger_kernel_config=config))


def test_liger_s_other_kernels_are_welcome():
    config = {"swiglu": False, "geglu": False, "rms_norm": True}
    refuse_liger_ffn(SimpleNamespace(use_liger_kernel=True, liger_kernel_config=config))
    refuse_liger_ffn(SimpleNamespace(use_liger_kernel=False, liger_kernel_config=None))


def test_a_trainer_with_liger_s_ffn_kernels_does_not_train(trainer, model):
    made = trainer(samples([16, 16]), [{"until": 1, "factor": 1}])
    made.args.use_liger_kernel = True
    before = model.lm_head.weight.clone()
    with pytest.raises(UserError, match="liger-kernel replaces the FFN"):
        made.train()
    assert torch.equal(before, model.lm_head.weight)


def test_an_ffn_whose_forward_was_replaced_is_refused(trainer, model):
    mlp = model.model.layers[1].mlp
    mlp.forward = lambda x: mlp.down_proj(functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x))
    made = trainer(samples([16, 16]), [{"until": 1, "factor": 1}])
    with pytest.raises(UserError, match=r"The forward of model\.layers\.1\.mlp was replaced"):
        made.train()
