# SPDX-License-Identifier: Apache-2.0
"""How rank and cut of the predictors are to be chosen, and what that takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from prosparse.errors import UserError
from prosparse.model.activation import FATReLU, ShiftedReLU
from prosparse.model.ffn import ffns
from prosparse.model.quantized import QuantizedMatrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from prosparse.model.ffn import FFN

RANK_UNIT = 32
EIGHTHS = (1, 2, 3, 4)
"""Ranks to choose among, in eighths of d_model."""


@dataclass(frozen=True, slots=True)
class ChoiceOptions:
    """What is given, and what is to be chosen."""

    reads: str
    rank: int | None
    cut: float | None
    recall: float | None
    max_missed: float
    zero_cuts: bool = False

    def __post_init__(self) -> None:
        if self.cut is not None and self.recall is not None:
            raise UserError("Give --cut or --recall, not both.")
        if self.cut is not None and not math.isfinite(self.cut):
            raise UserError(f"--cut must be a finite number; found {self.cut}.")
        if self.recall is not None and not 0 < self.recall < 1:
            raise UserError(f"--recall must be between 0 and 1; found {self.recall:g}.")
        if not 0 <= self.max_missed < 1:
            raise UserError(f"--max-missed must be in [0, 1); found {self.max_missed:g}.")
        if self.reads == "residual" and (self.rank is None or self.cut != 0):
            raise UserError(
                "Predictors that read the residual stream are run by other engines, which nothing is "
                "timed for, and compare logits with 0: give --rank and --cut 0."
            )

    @property
    def chooses_cut(self) -> bool:
        """Whether cuts are chosen by time."""
        return self.cut is None and self.recall is None

    @property
    def is_timed(self) -> bool:
        """Whether anything is chosen by time."""
        return self.rank is None or self.chooses_cut

    def ranks(self, d_model: int) -> tuple[int, ...]:
        """Return the ranks to choose among, lowest first."""
        if self.rank is not None:
            return (self.rank,)
        found = {max(2, round(d_model * n / 8 / RANK_UNIT) * RANK_UNIT) for n in EIGHTHS}
        return tuple(sorted(found))

    def check(self, found: Sequence[FFN]) -> None:
        """Raise unless a model can have such predictors.

        Raises:
            UserError: The rank is odd or too high, or the model has no ReLU.
        """
        most = 2 * found[0].d_model
        if self.rank is not None and (self.rank % 2 or not 2 <= self.rank <= most):
            raise UserError(
                f"--rank must be even and from 2 to {most}, twice d_model; found {self.rank}."
            )
        for ffn in found:
            if not isinstance(ffn.activation, nn.ReLU | FATReLU | ShiftedReLU):
                raise UserError(
                    f"The activation function of {ffn.name} is {type(ffn.activation).__name__}, "
                    "and predictors say where ReLU or a kind of it is zero; make a ReLU model of it "
                    "first: prosparse relufy, then train."
                )

    def in_words(self) -> str:
        """Return how rank and cut were chosen, as a sentence or two."""
        folded = " The cuts are folded into the second layers." if self.zero_cuts else ""
        return f"{self._choice_in_words()}{folded}"

    def _choice_in_words(self) -> str:
        if self.cut is not None:
            cut = f"the cut is {self.cut:g} in all layers"
        elif self.recall is not None:
            cut = f"the cut of each layer is the highest with a recall of {self.recall:g}"
        else:
            cut = (
                "the cuts save the most measured time with a mean missed share of at most "
                f"{self.max_missed:g}"
            )
        if self.rank is not None:
            return f"The rank is {self.rank} in all layers; {cut}."
        return f"Each layer's rank is chosen by measured time against missed output; {cut}."


def refuse_untimed(model: PreTrainedModel) -> None:
    """Raise unless the FFNs behind predictors can be timed here.

    Raises:
        UserError: They cannot: they have biases or are quantized.
    """
    reason = None
    for ffn in ffns(model):
        if any(isinstance(module, QuantizedMatrix) for module in ffn.module.modules()):
            reason = "the FFNs are quantized"
        elif any(isinstance(getattr(m, "bias", None), torch.Tensor) for m in ffn.module.modules()):
            reason = "the FFNs have biases"
    if reason is not None:
        raise UserError(
            f"Rank and cut cannot be chosen by measured time here, because {reason}; give --rank, and "
            "--cut or --recall."
        )
