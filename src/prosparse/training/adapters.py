# SPDX-License-Identifier: Apache-2.0
"""LoRA through peft: train small adapters, and leave a plain checkpoint.

peft puts its layers into the model in place. The model stays the class it was, so the penalty's
hooks, the measurements and the Trainer see it as they see any other; at the end the adapters are
added into the weights, and nothing of peft is left.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prosparse.errors import UserError

if TYPE_CHECKING:
    from peft import LoraModel
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """The `lora` section of a recipe."""

    rank: int = 16
    """r of every adapter."""
    alpha: float = 32.0
    """Adapters are scaled by alpha / rank."""
    dropout: float = 0.0
    """Of an adapter's input, in [0, 1)."""
    target_modules: tuple[str, ...] = ()
    """Names of the layers that get one, such as `q_proj`; none: every linear layer but the head."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"rank must be at least 1; found {self.rank}.")
        if not self.alpha > 0:
            raise UserError(f"alpha must be > 0; found {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be >= 0 and < 1; found {self.dropout}.")


def check_peft() -> None:
    """Raise unless peft is installed.

    Raises:
        UserError: It is not.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError("The recipe's 'lora' section needs peft: pip install 'prosparse[lora]'.")


def add_adapters(model: PreTrainedModel, plan: LoraPlan) -> LoraModel:
    """Put adapters into a model, which are then all that is trained; return how to merge them.

    `merge_and_unload` of the returned object makes `model` plain again, with the adapters added
    into its weights.

    Raises:
        UserError: The model has no layer of a wanted name.
    """
    check_peft()
    from peft import LoraConfig, LoraModel

    config = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        lora_dropout=plan.dropout,
        target_modules=list(plan.target_modules) or "all-linear",
    )
    try:
        return LoraModel(model, config, "default")
    except ValueError as error:
        raise UserError(f"lora.target_modules: {' '.join(str(error).split())}") from None
