# SPDX-License-Identifier: Apache-2.0
"""dReLU, the second shape of a gated FFN: down(relu(gate(x)) * relu(up(x))).

TurboSparse (Song et al., 2024) and Bamboo have it. No module of transformers computes it, so the FFN's
module stays what it is and where it is and only its class is exchanged for a subclass with another
`forward`; names, parameters and state dicts stay as well. What says so is the activation module, a
`DReLU`, which transformers builds from `hidden_act: drelu`: a name that stock transformers refuses,
where a key beside `hidden_act: relu` would be passed over and the model silently be another one.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from prosparse.errors import UserError
from prosparse.model.activation import DReLU
from prosparse.model.families import FAMILIES, Family
from prosparse.model.gated import projected

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILY = "_drelu_family"


class RectifiesUp(nn.Module):
    """Mixed into the module of a gated FFN."""

    def forward(self, x: Tensor) -> Tensor:
        """Return down(relu(gate(x)) * relu(up(x)))."""
        family = cast("Family", getattr(self, FAMILY))
        gate, up = projected(self, family, x)
        return getattr(self, family.down)(getattr(self, family.activation)(gate) * torch.relu(up))


def fit_forward(module: nn.Module, family: Family) -> None:
    """Give an FFN's module the forward that its activation module asks for."""
    wanted = isinstance(getattr(module, family.activation), DReLU)
    if wanted and FAMILY not in vars(module):
        module.__class__ = _with_relu(type(module))
        setattr(module, FAMILY, family)
    elif not wanted and FAMILY in vars(module):
        module.__class__ = type(module).__bases__[1]
        delattr(module, FAMILY)


def fit_model(model: PreTrainedModel) -> None:
    """Do the same for every FFN of a model that was just built from `hidden_act: drelu`.

    Raises:
        UserError: Its family is not known, or its FFNs have no gate.
    """
    owners = [m for m in model.modules() if any(isinstance(part, DReLU) for part in m.children())]
    if not owners:
        return
    model_type = model.config.get_text_config().model_type
    family = FAMILIES.get(model_type)
    if family is None:
        raise UserError(
            f"The config of this '{model_type}' model names dReLU, which prosparse can compute only "
            "in families it knows (prosparse/model/families.py)."
        )
    refuse_plain(family)
    for owner in owners:
        fit_forward(owner, family)


def refuse_plain(family: Family) -> None:
    """Raise for an FFN without a gate.

    Raises:
        UserError: dReLU is a ReLU on gate and up, and there is no gate.
    """
    if family.gate is None and not family.fused:
        raise UserError(
            "dReLU is ReLU on gate and up, but the FFNs of this model are plain, down(act(up(x))); "
            "choose relu."
        )


@functools.cache
def _with_relu(base: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass; one for each class, so that compiled code knows it again."""
    return cast("type[nn.Module]", type(f"DReLU{base.__name__}", (RectifiesUp, base), {}))
