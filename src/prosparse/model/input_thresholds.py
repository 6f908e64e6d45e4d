# SPDX-License-Identifier: Apache-2.0
"""Thresholds on what enters the projections of an FFN: TEAL's sparsity (Liu et al., 2024).

An entry of the input of `gate`, `up` or `down` whose magnitude is not above the threshold counts as
zero, so that the weights' columns it would meet need not be read. The input of `down` is x_1, which is
thereby as sparse as whoever measures it finds it. A model's config holds a list for each projection
under `ffn_input_thresholds`, one number for each layer, lowest first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prosparse.errors import UserError
from prosparse.model.activation import RoundedThreshold
from prosparse.model.families import FAMILIES, Family

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

KEY = "ffn_input_thresholds"
PROJECTIONS = ("gate", "up", "down")


class InputThreshold:
    """A forward pre-hook that zeroes the entries of an input that are not above a threshold.

    Args:
        threshold: t >= 0; what is kept has |x| > t, compared in the dtype of x.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._rounded = RoundedThreshold(threshold)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """Return the arguments that the module gets instead of `args`."""
        x, *others = args
        return x.masked_fill(x.abs() <= self._rounded[x.dtype], 0), *others


def cut_inputs(model: PreTrainedModel) -> None:
    """Hook the thresholds that a model's config holds into its FFNs, where they are not yet.

    Raises:
        UserError: The thresholds do not fit the model.
    """
    config = model.config.get_text_config()
    thresholds = getattr(config, KEY, None)
    if thresholds is None:
        return
    owners, family = _owners(model, config.model_type)
    _check(thresholds, config.num_hidden_layers)
    for layer, owner in enumerate(owners):
        for name in PROJECTIONS:
            projection = getattr(owner, getattr(family, name))
            hooks = projection._forward_pre_hooks.values()
            if not any(isinstance(hook, InputThreshold) for hook in hooks):
                projection.register_forward_pre_hook(InputThreshold(thresholds[name][layer]))


def cut_as_before(before: nn.Module, after: nn.Module) -> None:
    """Let a module that takes a projection's place cut its input as the projection did."""
    for hook in before._forward_pre_hooks.values():
        if isinstance(hook, InputThreshold):
            after.register_forward_pre_hook(hook)


def _owners(model: PreTrainedModel, model_type: str) -> tuple[list[nn.Module], Family]:
    """Return the FFN modules in the order of their layers."""
    family = FAMILIES.get(model_type)
    if family is None or family.gate is None:
        raise UserError(
            f"{KEY} needs an FFN with a gate, an up and a down projection of its own; "
            f"'{model_type}' is not a family that prosparse knows to be built so."
        )
    parts = (family.gate, family.up, family.down, family.activation)
    owners = [m for m in model.modules() if all(part in m._modules for part in parts)]
    return owners, family


def _check(thresholds: object, num_layers: int) -> None:
    fits = isinstance(thresholds, dict) and set(thresholds) == set(PROJECTIONS)
    for name in PROJECTIONS if fits else ():
        numbers = thresholds[name]  # type: ignore[index]
        fits = fits and len(numbers) == num_layers and all(number >= 0 for number in numbers)
    if not fits:
        raise UserError(
            f"{KEY} in config.json must hold a list of {num_layers} numbers >= 0, one for each layer, "
            f"under each of {', '.join(PROJECTIONS)}."
        )
