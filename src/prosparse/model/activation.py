# SPDX-License-Identifier: Apache-2.0
"""The sparse activation functions of ProSparse, as the modules transformers would build.

ReLU needs nothing of ours: `hidden_act: relu` is stock transformers. Most others carry a number
that a name alone cannot say, so a checkpoint holds two keys, the ones MiniCPM-S, the SparseLLM
models and vLLM already use: `hidden_act` (`fatrelu`, `shifted_relu`, `thresholded_silu`) and
`hidden_act_param`, which with us may also be a list, a number for each layer. `drelu` has no number:
it says that `up` passes a ReLU, too (`prosparse.model.drelu`).
transformers builds an activation from its name only; the number is filled in afterwards, from the
model's config, by `prosparse.model.registration`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prosparse.errors import UserError
from prosparse.records.sparsity import Activation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig

PARAM_KEY = "hidden_act_param"


class RoundedThreshold:
    """A threshold as each floating-point dtype has it.

    Rounded here and not left to a comparison, which is made in float32 once it is compiled.
    """

    def __init__(self, value: float | None) -> None:
        self._rounded = {
            dtype: math.nan if value is None else _round(value, dtype)
            for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        }

    def __getitem__(self, dtype: torch.dtype) -> float:
        return self._rounded[dtype]


class Thresholded(nn.Module):
    """An activation function with a threshold.

    Args:
        param: The threshold t >= 0, or None until the model's config fills it in. It is compared
            in the dtype of the input. NaN stays NaN, as with ReLU.
    """

    def __init__(self, param: float | None = None) -> None:
        super().__init__()
        self.param = param

    @property
    def param(self) -> float | None:
        """The threshold t as it was given."""
        return self._param

    @param.setter
    def param(self, value: float | None) -> None:
        self._param = value
        self.rounded = RoundedThreshold(value)

    def extra_repr(self) -> str:  # noqa: D102 - nn.Module documents it
        return f"threshold={self.param}"


class FATReLU(Thresholded):
    """x where x >= t, else 0 (Eq. 3 of ProSparse; Kurtz et al., 2020). Ties are kept."""

    def forward(self, x: Tensor) -> Tensor:
        """Return FATReLU(x), of the shape and dtype of x."""
        _filled_in(self)
        return x.masked_fill(x < self.rounded[x.dtype], 0)


class ThresholdedSiLU(Thresholded):
    """silu(x) where |silu(x)| > t, else 0 (CATS; Lee et al., 2024). Ties are cut, as CATS cuts them."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x, of the shape and dtype of x."""
        _filled_in(self)
        y = nn.functional.silu(x)
        return y.masked_fill(y.abs() <= self.rounded[y.dtype], 0)


class DReLU(nn.ReLU):
    """ReLU of the gate, in an FFN whose `up` passes a ReLU as well (TurboSparse; Song et al., 2024)."""


class ShiftedReLU(nn.Module):
    """max(x - b, 0): the baseline of Mirzadeh et al. (2023), Section 4.4 and Table 4 of ProSparse.

    Args:
        param: The bias b, or None until the model's config fills it in.
    """

    def __init__(self, param: float | None = None) -> None:
        super().__init__()
        self.param = param

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x - b, 0), of the shape and dtype of x."""
        return torch.relu(x - _filled_in(self))

    def extra_repr(self) -> str:  # noqa: D102 - nn.Module documents it
        return f"bias={self.param}"


def _round(value: float, dtype: torch.dtype) -> float:
    # On the CPU whatever the default device: transformers builds models on the meta device.
    return torch.tensor(value, dtype=dtype, device="cpu").item()


def _filled_in(module: Thresholded | ShiftedReLU) -> float:
    if module.param is None:
        raise RuntimeError(
            f"{type(module).__name__} has no {PARAM_KEY}: the model was built before prosparse "
            "could read its config; import prosparse before building the model."
        )
    return module.param


# What ACT2CLS learns. ReLU is here too, so that every sparse activation is one lookup.
SPARSE_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "fatrelu": FATReLU,
    "shifted_relu": ShiftedReLU,
    "drelu": DReLU,
    "thresholded_silu": ThresholdedSiLU,
}
# The number that each of them needs, as options name it; the others need none.
NUMBERS = {"fatrelu": "threshold", "shifted_relu": "bias", "thresholded_silu": "threshold"}


def make_activation(
    name: str, *, bias: float | None = None, threshold: float | None = None
) -> Activation:
    """Return the checked description of a sparse activation function.

    Args:
        name: `relu`, `fatrelu`, `shifted-relu` (also spelled `shifted_relu`), `drelu` or
            `thresholded-silu`.
        bias: b of shifted ReLU, >= 0; only with it.
        threshold: t of FATReLU or of thresholded SiLU, >= 0; only with them.

    Raises:
        UserError: An unknown name, a number that is missing or does not belong to the name.
    """
    name = name.replace("-", "_")
    if name not in SPARSE_ACTIVATIONS:
        choices = ", ".join(key.replace("_", "-") for key in SPARSE_ACTIVATIONS)
        raise UserError(f"Unknown activation '{name}'; choose one of {choices}.")
    wanted = NUMBERS.get(name)
    for option, value in (("bias", bias), ("threshold", threshold)):
        if value is not None and option != wanted:
            raise UserError(f"--{option} {value} does not apply to {name.replace('_', '-')}.")
    if wanted is None:
        return Activation(name)
    param = bias if wanted == "bias" else threshold
    if param is None:
        raise UserError(f"{name.replace('_', '-')} needs --{wanted}, a number >= 0.")
    if not (math.isfinite(param) and param >= 0):
        raise UserError(f"--{wanted} must be a finite number >= 0; found {param}.")
    return Activation(name, float(param))


def build_activation(name: str, param: float | None = None) -> nn.Module:
    """Return a fresh module for the sparse activation of one layer."""
    cls = SPARSE_ACTIVATIONS[name]
    return cls(param) if name in NUMBERS else cls()


def param_from_config(config: PreTrainedConfig) -> float | tuple[float, ...] | None:
    """Return the number, or a number for each layer, that a config keeps for its activation."""
    param = getattr(config, PARAM_KEY, None)
    return tuple(param) if isinstance(param, list) else param


def params_of_layers(
    param: float | Sequence[float] | None, num_layers: int
) -> Sequence[float | None]:
    """Return the number of each layer; one number is that of all.

    Raises:
        UserError: There are more or fewer numbers than layers.
    """
    if param is None or isinstance(param, int | float):
        return [param] * num_layers
    if len(param) != num_layers:
        raise UserError(
            f"{PARAM_KEY} lists {len(param)} numbers for the {num_layers} layers of this model; set "
            "it in config.json to one number, or to one for each layer."
        )
    return param
