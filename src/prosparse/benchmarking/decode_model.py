# SPDX-License-Identifier: Apache-2.0
"""The model of a decode benchmark: random weights of a known shape, or a checkpoint.

Random weights cost a decode what trained ones cost, if as many neurons are inactive: each layer
gets the FATReLU threshold that cuts the wanted share of its own pre-activations.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prosparse.benchmarking.tinygemm import TinyGemmLinear
from prosparse.errors import UserError
from prosparse.model.activation import FATReLU
from prosparse.model.ffn import FFN, ffns
from prosparse.model.quantized import QuantizedMatrix, TiedHead
from prosparse.model.shapes import Shape, llama_config
from prosparse.model.tap import tap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel

CALIBRATION_TOKENS = 256


def random_model(
    shape: Shape, num_layers: int | None, dtype: torch.dtype, device: torch.device, seed: int
) -> PreTrainedModel:
    """Return a Llama of a shape with random weights and ReLU, made where it will run.

    Args:
        shape: One of `SHAPES`.
        num_layers: Fewer than the shape has; None is all.
        dtype: Of the weights.
        device: Where to put it.
        seed: Of the weights.

    Raises:
        UserError: `num_layers` is below 1.
    """
    from transformers import LlamaForCausalLM

    layers = shape.num_layers if num_layers is None else num_layers
    if layers < 1:
        raise UserError(f"--layers must be at least 1; found {layers}.")
    config = llama_config(shape, layers, "relu")
    torch.manual_seed(seed)
    with device, _default_dtype(dtype):
        return LlamaForCausalLM(config).eval()


def set_thresholds(model: PreTrainedModel, sparsity: float, seed: int) -> list[float]:
    """Give every layer the FATReLU threshold that makes `sparsity` of its neurons inactive.

    All layers are set in one pass over random tokens, the lower ones first: each sees the inputs
    that the layers below give it once they are sparse.

    Args:
        model: A gated ReLU model.
        sparsity: In [0, 1]. Random gates are negative half of the time, so less than about half
            cannot be had with thresholds >= 0.
        seed: Of the tokens.

    Returns:
        The thresholds, first layer first.

    Raises:
        UserError: The sparsity needs a threshold below 0.
    """
    thresholds: list[float] = []

    def setter(ffn: FFN) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _args: object, pre: Tensor) -> None:
            values = pre.float().flatten()
            rank = min(max(1, round(sparsity * values.numel())), values.numel())
            threshold = float(values.kthvalue(rank).values)
            if threshold < 0:
                raise UserError(
                    f"--sparsity {sparsity:g} cannot be set in layer {ffn.layer}: random weights "
                    f"have {float((values < 0).float().mean()):.1%} of their gates below 0 already; "
                    "ask for more."
                )
            ffn.set_activation(FATReLU(threshold))
            thresholds.append(threshold)

        return hook

    found = ffns(model)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.config.vocab_size, (1, CALIBRATION_TOKENS), generator=generator)
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for ffn in found:
            gate = ffn.module.get_submodule(ffn.family.gate or ffn.family.up)
            hooks.enter_context(gate.register_forward_hook(setter(ffn)))
        model(input_ids=ids.to(model.device), use_cache=False)
    return thresholds


def layer_sparsity(model: PreTrainedModel, ids: Tensor, num_new: int) -> tuple[float, ...]:
    """Return each layer's share of zeros in x_1 over the last `num_new` tokens that were fed.

    Args:
        model: The dense model.
        ids: [1, S] prompt and decoded tokens.
        num_new: How many of them, from the end, were fed one by one.
    """
    shares: dict[int, float] = {}

    def observe(layer: int, x1: Tensor) -> None:
        last = x1.reshape(-1, x1.shape[-1])[-num_new:]
        shares[layer] = float((last == 0).float().mean())

    with tap(ffns(model), observe), torch.no_grad():
        model(input_ids=ids, use_cache=False)
    return tuple(shares[layer] for layer in sorted(shares))


@dataclass(frozen=True, slots=True)
class Traffic:
    """Weights that the decode of one token reads, in MB; the key-value cache is not among them."""

    dense: float
    """All that a dense step reads."""
    gate: float
    """Of the FFNs: what decides which neurons are active."""
    up_and_down: float
    """Of the FFNs: what is skipped where a neuron is inactive."""
    gate_numel: float
    """Millions of gate weights, a byte each in the int8 screen."""

    @property
    def ffn(self) -> float:
        """The whole FFNs."""
        return self.gate + self.up_and_down

    def sparse(self, layers: Sequence[float]) -> float:
        """Return what an exact sparse step reads at these layers' sparsities."""
        return self.dense - self.up_and_down * _mean(layers)

    def screened(self, layers: Sequence[float]) -> float:
        """Return what a step reads whose int8 screen of the gate leaves no doubt about any neuron."""
        active = 1 - _mean(layers)
        return self.dense - self.ffn + self.gate_numel + active * self.ffn


def traffic(model: PreTrainedModel) -> Traffic:
    """Return what decoding a token reads of a model's weights.

    The input embedding is a table of which one row is read, unless it is the output head too.
    """
    packed = [m for m in model.modules() if isinstance(m, QuantizedMatrix | TinyGemmLinear)]
    tensors = itertools.chain(model.parameters(), *(module.buffers() for module in packed))
    weights = {tensor.data_ptr(): tensor for tensor in tensors}
    total = sum(t.numel() * t.element_size() for t in weights.values())
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = isinstance(head, TiedHead) or getattr(head, "weight", None) is table.weight
    if not is_tied:
        total -= _num_bytes(table)
    gate, rest, numel = 0.0, 0.0, 0
    for ffn in ffns(model):
        family = ffn.family
        up, down = (_num_bytes(ffn.module.get_submodule(name)) for name in (family.up, family.down))
        if family.gate:
            first, others = _num_bytes(ffn.module.get_submodule(family.gate)), up + down
        elif family.fused:
            first, others = up / 2, up / 2 + down
        else:
            first, others = up, down
        gate, rest, numel = gate + first, rest + others, numel + ffn.d_ff * ffn.d_model
    return Traffic(1e-6 * total, 1e-6 * gate, 1e-6 * rest, 1e-6 * numel)


def _num_bytes(module: nn.Module) -> int:
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
