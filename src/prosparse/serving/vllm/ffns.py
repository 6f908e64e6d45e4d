# SPDX-License-Identifier: Apache-2.0
"""The FFNs of a model that vLLM built: their activation, and their sparse path.

vLLM keeps gate and up in one matrix, `gate_up_proj`, and the names of transformers for the rest. The
activation is put in first, so the model is right on any path; then, weights loaded, the class of an FFN's
module is exchanged for a subclass with another `forward`, if the sparse path returns what the module's own
does. More tokens than skipping pays for go through the module's own `forward`. The sparse operators read
the weights as they lie there, `down_proj` by neurons.
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
from vllm.model_executor.layers.linear import RowParallelLinear, UnquantizedLinearMethod
from vllm.model_executor.models.utils import extract_layer_index

from prosparse.errors import UserError
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.ops import sparse_ffn
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
from prosparse.serving.live import live
from prosparse.serving.vllm.operator import served_ffn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from prosparse.model.families import Family
    from prosparse.serving.vllm.options import Options

logger = logging.getLogger(__name__)

GATE_UP = "gate_up_proj"
ACTIVATION_NAMES = ("act_fn", "act")  # where vLLM has another one than transformers
SERVED = "_served_as"
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
    """A weight that the sparse operators read, too, where vLLM would keep only a packed one on a CPU.

    Args:
        is_down: Whether it is that of `down`, [D, F], which is laid out by neurons and keeps its shape.
        is_packed: Hold vLLM's packed copy as well, for the dense path.
    """

    def __init__(self, is_down: bool, is_packed: bool) -> None:
        super().__init__()
        self.is_down = is_down
        self.is_packed = is_packed

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Lay the weight out."""
        weight = layer.get_parameter("weight")
        if self.is_packed and weight.device.type == "cpu":
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
        if self.is_down:
            weight.data = weight.data.T.contiguous().T

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the projection of x."""
        if self.is_packed:
            return super().apply(layer, x, bias)
        return linear(x, layer.get_parameter("weight"), bias)


@dataclass
class ServedFFN:
    """One FFN and its sparse path."""

    name: str
    """By which the operator finds it."""
    module: nn.Module
    up: str
    """Attribute of the first projection, of gate and up if it is gated."""
    down: str
    activation: nn.Module
    """That of the gate."""
    max_tokens: int
    weights: FFNWeights | None = None
    """Views of the module's, once they are loaded."""

    def compute(self, x: Tensor) -> Tensor:
        """Return the FFN's output for x [..., D], shaped like x."""
        x_TD = x.reshape(-1, x.shape[-1])
        is_sparse = 0 < len(x_TD) <= self.max_tokens
        live().note(x_TD, is_sparse, lambda: cast("FFNWeights", self.weights))
        if not is_sparse:
            return super(RunsServed, cast("RunsServed", self.module)).forward(x)
        return self.sparse(x_TD).view(x.shape)

    def sparse(self, x_TD: Tensor) -> Tensor:
        """Return the output for x [T, D], by the sparse operators."""
        y = sparse_ffn(x_TD, cast("FFNWeights", self.weights), weights_ready=True)
        down = getattr(self.module, self.down)
        if _is_split(down) and down.reduce_results:
            y = tensor_model_parallel_all_reduce(y)
        return y

    def swap_in(self) -> None:
        """Exchange the module's class, if the sparse path computes what its own forward does.

        Once more, it only takes the weights that are there now.
        """
        self.weights = self._weights()
        if isinstance(self.module, RunsServed):
            return
        down = self.weights.down_projT
        x = torch.linspace(-1, 1, down.shape[1], dtype=down.dtype, device=down.device)[None]
        with torch.inference_mode():
            own = self.module(x)
            is_right = isinstance(own, Tensor) and _is_near(self.sparse(x), own)
        if not is_right:
            logger.warning(
                "%s (%s) computes more than its FFN: it is served densely, all weights read.",
                self.name,
                type(self.module).__name__,
            )
            return
        setattr(self.module, SERVED, self.name)
        self.module.__class__ = _with_sparse_path(type(self.module))

    def _weights(self) -> FFNWeights:
        first: Any = getattr(self.module, self.up)
        down: Any = getattr(self.module, self.down)
        gate, gate_bias = first.weight.data, first.bias
        up = up_bias = None
        if self.up == GATE_UP:
            gate, up = gate.chunk(2)
            if gate_bias is not None:
                gate_bias, up_bias = gate_bias.data.chunk(2)
        activation = self.activation
        return FFNWeights(
            gate_proj=gate,
            up_proj=up,
            down_projT=down.weight.data.T,
            gate_bias=gate_bias,
            up_bias=up_bias,
            down_bias=None if _is_split(down) and down.tp_rank > 0 else down.bias,
            threshold=cast("float", activation.param) if isinstance(activation, FATReLU) else 0.0,
            shift=cast("float", activation.param) if isinstance(activation, ShiftedReLU) else 0.0,
            up_relu=isinstance(activation, DReLU),
        )


class RunsServed(nn.Module):
    """Mixed into the module of an FFN."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the whole FFN."""
        return served_ffn(x, cast("str", getattr(self, SERVED)))


def find_ffns(
    model: nn.Module, family: Family, config: PreTrainedConfig, options: Options
) -> list[ServedFFN]:
    """Put the activation into every FFN of a model, and return those that can have a sparse path.

    Args:
        model: As vLLM built it, weights not loaded yet.
        family: Of the model.
        config: Names the activation, and its number or one for each layer.
        options: What vLLM was told for us.

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
        found.append(ServedFFN(path, module, up, family.down, activation, options.max_tokens))
    if not found:
        raise UserError(
            f"vLLM's {type(model).__name__} has no FFN with '{up}' and '{family.down}' in any layer."
        )
    served = [ffn for ffn in found if _can_be_sparse(ffn, family)]
    for ffn in served:
        for part, is_down in ((ffn.up, False), (ffn.down, True)):
            getattr(ffn.module, part).quant_method = RowsByNeuron(is_down, options.is_packed)
    return served


def _can_be_sparse(ffn: ServedFFN, family: Family) -> bool:
    plain = all(
        type(getattr(ffn.module, part).quant_method) is UnquantizedLinearMethod
        for part in (ffn.up, ffn.down)
    )
    # In opt the FFN is no module of its own: there is no forward to exchange.
    skips = not isinstance(ffn.activation, ThresholdedSiLU) and family.ffn != ""
    return ffn.max_tokens > 0 and plain and skips


def _is_split(down: Any) -> bool:
    """Whether each of several GPUs has a share of the neurons; their sums are added up."""
    return isinstance(down, RowParallelLinear) and down.tp_size > 1


def _is_near(a: Tensor, b: Tensor) -> bool:
    difference = torch.linalg.vector_norm(a.float() - b.float())
    return bool(difference <= TOLERANCE * torch.linalg.vector_norm(b.float()))


@functools.cache
def _with_sparse_path(base: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass; one for each class."""
    return cast("type[nn.Module]", type(f"Sparse{base.__name__}", (RunsServed, base), {}))
