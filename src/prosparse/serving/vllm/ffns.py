# SPDX-License-Identifier: Apache-2.0
"""The FFNs of a model that vLLM built: their activation, and their sparse path.

vLLM keeps gate and up in one matrix, `gate_up_proj`, and the names of transformers for the rest. The
activation is put in first, so the model is right on any path; then, weights loaded, the class of an FFN's
module is exchanged for a subclass whose `forward` is `served_ffn`, if it returns what the module's own
does. Weights are held once: `down_proj` is laid out by neurons and keeps its shape.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.models.utils import extract_layer_index

from prosparse.errors import UserError
from prosparse.model.activation import (
    DReLU,
    FATReLU,
    ShiftedReLU,
    ThresholdedSiLU,
    build_activation,
    param_from_config,
    params_of_layers,
)
from prosparse.model.relufy import OWN_KEY
from prosparse.serving.vllm.operator import served_ffn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from prosparse.model.families import Family

logger = logging.getLogger(__name__)

GATE_UP = "gate_up_proj"
ACTIVATION_NAMES = ("act_fn", "act")  # where vLLM has another one than transformers
SERVED = "_served_ffn"
# As far as two orders of summation and a rounding to bfloat16 in between may be apart.
TOLERANCE = 0.02


class GatedActivation(nn.Module):
    """act(gate) * up of [..., 2F], as vLLM's FFNs call it."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, gate_up: Tensor) -> Tensor:
        """Return x_1 [..., F]."""
        gate, up = gate_up.chunk(2, dim=-1)
        return self.gate(gate) * (torch.relu(up) if isinstance(self.gate, DReLU) else up)


class RowsByNeuron(UnquantizedLinearMethod):
    """A weight that the dense and the sparse path read: not packed for one of them."""

    def __init__(self, is_down: bool) -> None:
        super().__init__()
        self.is_down = is_down

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Lay `down` out by neurons; it keeps its shape [D, F]."""
        if self.is_down:
            weight = layer.get_parameter("weight")
            weight.data = weight.data.T.contiguous().T

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the projection of x."""
        return linear(x, layer.get_parameter("weight"), bias)


@dataclass(frozen=True)
class ServedFFN:
    """One FFN and its sparse path."""

    name: str
    """Dotted path of `module` in the model."""
    module: nn.Module
    up: str
    """Attribute of the first projection, of gate and up if it is gated."""
    down: str
    activation: nn.Module
    """That of the gate."""
    max_tokens: int

    @property
    def is_gated(self) -> bool:
        """Whether it has a gate."""
        return self.up == GATE_UP

    def run(self, x: Tensor) -> Tensor:
        """Return the FFN's output for x [..., D], shaped like x."""
        up: Any = getattr(self.module, self.up)
        down: Any = getattr(self.module, self.down)
        activation = self.activation
        y = served_ffn(
            x.reshape(-1, x.shape[-1]),
            up.weight,
            down.weight.T,
            up.bias,
            down.bias if down.tp_rank == 0 else None,
            self.is_gated,
            cast("float", activation.param) if isinstance(activation, FATReLU) else 0.0,
            cast("float", activation.param) if isinstance(activation, ShiftedReLU) else 0.0,
            isinstance(activation, DReLU),
            self.max_tokens,
        )
        if down.reduce_results and down.tp_size > 1:
            y = tensor_model_parallel_all_reduce(y)
        return y.view(x.shape)

    @torch.inference_mode()
    def swap_in(self) -> None:
        """Exchange the module's class, if the sparse path computes what its own forward does."""
        weight = getattr(self.module, self.down).weight
        x = torch.linspace(-1, 1, len(weight), dtype=weight.dtype, device=weight.device)[None]
        own = self.module(x)
        if not isinstance(own, Tensor) or not _is_near(self.run(x), own):
            logger.warning(
                "%s (%s) computes more than its FFN: it is served densely, all weights read.",
                self.name,
                type(self.module).__name__,
            )
            return
        setattr(self.module, SERVED, self)
        self.module.__class__ = _sparse(type(self.module))


class RunsServed(nn.Module):
    """Mixed into the module of an FFN."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the whole FFN."""
        return cast("ServedFFN", getattr(self, SERVED)).run(x)


def find_ffns(
    model: nn.Module, family: Family, config: PreTrainedConfig, max_tokens: int
) -> list[ServedFFN]:
    """Put the activation into every FFN of a model, and return those that can have a sparse path.

    Args:
        model: As vLLM built it, weights not loaded yet.
        family: Of the model.
        config: Names the activation, and its number or one for each layer.
        max_tokens: Steps of more tokens go the dense way; with 0 all do.

    Raises:
        UserError: It has no FFNs where they should be.
    """
    name = getattr(config, family.config_key or OWN_KEY)
    up = GATE_UP if family.gate is not None or family.fused else family.up
    numbers = params_of_layers(param_from_config(config), config.num_hidden_layers)
    found = []
    for path, module in model.named_modules():
        children = dict(module.named_children())
        if up not in children or family.down not in children:
            continue
        activation = build_activation(name, numbers[extract_layer_index(path)])
        place = next(a for a in (family.activation, *ACTIVATION_NAMES) if a in children)
        setattr(module, place, GatedActivation(activation) if up == GATE_UP else activation)
        found.append(ServedFFN(path, module, up, family.down, activation, max_tokens))
    if not found:
        raise UserError(
            f"vLLM's {type(model).__name__} has no FFN with '{up}' and '{family.down}' in any layer."
        )
    served = [ffn for ffn in found if _can_be_sparse(ffn, family)]
    for ffn in served:
        getattr(ffn.module, ffn.up).quant_method = RowsByNeuron(is_down=False)
        getattr(ffn.module, ffn.down).quant_method = RowsByNeuron(is_down=True)
    return served


def _can_be_sparse(ffn: ServedFFN, family: Family) -> bool:
    plain = all(
        type(getattr(ffn.module, part).quant_method) is UnquantizedLinearMethod
        for part in (ffn.up, ffn.down)
    )
    # In opt the FFN is no module of its own: there is no forward to exchange.
    skips = not isinstance(ffn.activation, ThresholdedSiLU) and family.ffn != ""
    return ffn.max_tokens > 0 and plain and skips


def _is_near(a: Tensor, b: Tensor) -> bool:
    difference = torch.linalg.vector_norm(a.float() - b.float())
    return bool(difference <= TOLERANCE * torch.linalg.vector_norm(b.float()))


@functools.cache
def _sparse(base: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass; one for each class."""
    return cast("type[nn.Module]", type(f"Sparse{base.__name__}", (RunsServed, base), {}))
