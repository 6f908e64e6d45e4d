# SPDX-License-Identifier: Apache-2.0
"""The model that a run trains, at its beginning or where it goes on."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING

import torch
import transformers
from packaging.version import Version

from prosparse.errors import UserError
from prosparse.model.activation import SPARSE_ACTIVATIONS
from prosparse.model.checkpoint import load
from prosparse.model.quantizing import refuse_quantized
from prosparse.model.relufy import activation_of, relufy_in_place
from prosparse.training.adapters import add_adapters
from prosparse.training.distillation import Distiller

if TYPE_CHECKING:
    from peft import LoraModel
    from transformers import PreTrainedModel

    from prosparse.training.milestones import Milestones
    from prosparse.training.recipe import Recipe

logger = logging.getLogger(__name__)


def starting_model(
    recipe: Recipe,
    is_resumed: bool,
    milestones: Milestones,
    where: torch.device,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, LoraModel | None]:
    """Return the model with its activation put in, and its adapters where it has any.

    At a run's beginning it is measured before and after its activation is replaced, if it is. A
    resumed run begins with the same model; the Trainer reads the checkpoint into it.

    Raises:
        UserError: It cannot be loaded, cannot be trained on answers, or is dense and to be penalized.
    """
    # float32 whatever the checkpoint holds: bfloat16 master weights would swallow small updates.
    model = load(
        recipe.model,
        dtype=torch.float32,
        device=where,
        trust_remote_code=trust_remote_code,
    )
    refuse_quantized(model)
    if recipe.data.loss == "answers":
        _refuse_without_positions(model)
    replaced = activation_of(model)
    chosen = recipe.relufy.chosen() if recipe.relufy is not None else replaced
    if chosen.name not in SPARSE_ACTIVATIONS:
        _refuse_a_penalty(recipe, chosen.name)
    if not is_resumed:
        milestones.measure("original", model, step=0, factor=0.0, tokens_seen=0)
        if replaced.name in SPARSE_ACTIVATIONS and replaced != chosen:
            logger.warning(
                "%s has %s (%s); the recipe's relufy section puts %s (%s) in its place. To keep "
                "the one it has, name it there.",
                recipe.model,
                replaced.name,
                replaced.param,
                chosen.name,
                chosen.param,
            )
    if replaced != chosen:
        relufy_in_place(model, chosen)
        if not is_resumed:
            label = f"{spoken(model)}, untrained"
            milestones.measure(label, model, step=0, factor=0.0, tokens_seen=0)
    return model, None if recipe.lora is None else add_adapters(model, recipe.lora)


def recompute_activations(model: PreTrainedModel) -> None:
    """Turn gradient checkpointing on, which transformers 5.18 renamed.

    On the model, because the Trainer's argument for it warns of FSDP's first version.
    """
    name = "activation_checkpointing_enable"
    if Version(transformers.__version__) < Version("5.18"):
        name = "gradient_checkpointing_enable"
    # The reentrant kind hides the intermediate x_1 from autograd, and with it the penalty.
    getattr(model, name)({"use_reentrant": False})


def distiller(
    recipe: Recipe,
    student: PreTrainedModel,
    precision: str,
    where: torch.device,
    trust_remote_code: bool,
) -> Distiller | None:
    """Return what compares the model with its teacher, in the precision of the run's passes.

    Raises:
        UserError: The teacher cannot be loaded, or does not fit the model.
    """
    plan = recipe.distillation
    if plan is None:
        return None
    teacher = load(
        plan.teacher or recipe.model,
        dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
        device=where,
        trust_remote_code=trust_remote_code,
    )
    return Distiller(plan, teacher, student, recipe.training.compile)


def spoken(model: PreTrainedModel) -> str:
    """Return the activation's name as people write it."""
    names = {
        "relu": "ReLU",
        "shifted_relu": "shifted ReLU",
        "fatrelu": "FATReLU",
        "drelu": "dReLU",
        "thresholded_silu": "thresholded SiLU",
    }
    return names[activation_of(model).name]


def _refuse_a_penalty(recipe: Recipe, activation: str) -> None:
    """Raise where a dense activation is kept and yet penalized, which makes nothing zero."""
    if any(stage.factor > 0 for stage in recipe.regularization.stages):
        raise UserError(
            f"'relufy: null' keeps {activation}, which has no zeros to train for: set every factor to "
            "0 for a dense control, or leave relufy out."
        )


def _refuse_without_positions(model: PreTrainedModel) -> None:
    """Raise for a model that could not keep the conversations of one block apart."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise UserError(
            f"'loss: answers' packs conversations and keeps them apart by their positions, which "
            f"a {type(model).__name__} does not take: choose another model or 'loss: all'."
        )
