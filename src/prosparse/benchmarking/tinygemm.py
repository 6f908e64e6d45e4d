# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own int4 linear layer (tinygemm), the stock baseline for decoding with int4 weights.

Its groups lie along the inputs of a projection, those of `prosparse.kernels.quantize` along d_model,
which for the down projection are its outputs: the two round differently, and a model is judged by
itself (`DecodeContender.is_own_judge`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from prosparse.benchmarking.decode_parts import attention_names
from prosparse.kernels.quantize import quantize
from prosparse.model.quantized import GROUP_SIZE, QuantizedLinear
from prosparse.model.quantizing import Place, ffn_places

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INNER_TILES = 8  # of the packed layout; PyTorch takes 2, 4 and 8


class TinyGemmLinear(nn.Module):
    """A linear layer with int4 weights in groups along its inputs, for bfloat16 activations.

    Args:
        weight: [N, K], K a multiple of 128.
        bias: [N] or None.
    """

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        q, scales = quantize_inputs(weight)
        self.on_cpu = weight.device.type == "cpu"
        if self.on_cpu:
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.int(), INNER_TILES)
        else:
            pairs = (q[:, ::2] << 4) | q[:, 1::2]
            packed = torch.ops.aten._convert_weight_to_int4pack(pairs, INNER_TILES)
        scales = scales.T.contiguous()
        self.register_buffer("packed", packed)
        # The weight is (q - 8) * scale + zero.
        self.register_buffer("scales_and_zeros", torch.stack([scales, 0 * scales], dim=-1))
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + bias for bfloat16 x [..., K]."""
        library = torch.ops.aten
        multiply = (
            library._weight_int4pack_mm_for_cpu if self.on_cpu else library._weight_int4pack_mm
        )
        rows = x.reshape(-1, x.shape[-1])
        y = multiply(rows, self.packed, GROUP_SIZE, self.scales_and_zeros)
        y = y.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def quantize_inputs(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return q + 8 in uint8 [N, K] and bfloat16 scales [N, K / 64] of a weight [N, K]."""
    # The scales of our own four bits, so that what they have rounded is not rounded once more.
    _, ours = quantize(weight, 4, GROUP_SIZE)
    scales = ours.bfloat16()
    # Contiguous, whatever the weight is: PyTorch packs nothing else on a GPU.
    groups = weight.float().contiguous().reshape(len(weight), -1, GROUP_SIZE)
    q = (groups / scales.float().unsqueeze(-1)).round().clamp(-8, 7) + 8
    return q.to(torch.uint8).reshape(weight.shape), scales


def quantize_attention(model: PreTrainedModel) -> None:
    """Put the projections of every attention into int4, in place: the same for all contenders."""
    for name in attention_names(model):
        owner = model.get_submodule(name)
        for child, layer in list(owner.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(owner, child, TinyGemmLinear(layer.weight.detach(), layer.bias))


@contextlib.contextmanager
def dense_int4_ffns(model: PreTrainedModel) -> Iterator[None]:
    """Run the quantized FFNs of a model through tinygemm inside the block.

    Raises:
        ArithmeticError: tinygemm does not compute what its weights say.
    """
    replaced: list[tuple[Place, nn.Module]] = []
    try:
        for place in _quantized(model):
            before = cast("QuantizedLinear", place.module)
            replaced.append((place, before))
            weight = before.dense_weight()
            layer = TinyGemmLinear(weight, before.bias)
            if len(replaced) <= 3:  # the layers are alike
                _check(layer, weight)
            place.put(layer)
        yield
    finally:
        for place, before in replaced:
            place.put(before)


def _quantized(model: PreTrainedModel) -> list[Place]:
    return [p for p in ffn_places(model) if isinstance(p.module, QuantizedLinear)]


def _check(layer: TinyGemmLinear, weight: Tensor) -> None:
    """Raise unless the layer computes what its rounded weight gives in float32."""
    x = torch.randn(4, weight.shape[1], device=weight.device).bfloat16()
    q, scales = quantize_inputs(weight)
    rounded = (q.float() - 8) * scales.float().repeat_interleave(GROUP_SIZE, dim=1)
    expected = x.float() @ rounded.T + (0 if layer.bias is None else layer.bias.float())
    error = float((layer(x).float() - expected).norm() / expected.norm())
    if not error <= 1e-2:
        raise ArithmeticError(f"tinygemm is off by {error:.1e} from its own weights")
