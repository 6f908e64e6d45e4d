# SPDX-License-Identifier: Apache-2.0
"""Linear layers and embeddings in 8 or 4 bits: what decoding reads shrinks once more, on top of sparsity.

A matrix is held as rows of values in groups, one float16 scale a group (`prosparse.kernels.quantize`);
its names and shapes here are those of the checkpoint on disk (docs/quantize.md). The rows are those of
a Linear's weight, one for each output; of an FFN's `down` its columns, so that a neuron is a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from prosparse.kernels import quantize as packing

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP_SIZE = 64


class QuantizedMatrix(nn.Module):
    """A matrix [R, C] in groups along its rows; R rows, G groups of a row.

    Args:
        rows: [R, C], float; on the meta device only its shape is taken.
        bits: 8 or 4.
        group_size: Values that share a scale: 32, 64 or 128.

    Raises:
        ValueError: C is no multiple of `group_size`.
    """

    weight: Tensor
    """int8 [R, G, group_size], or for 4 bits uint8 [R, G, group_size / 2]. Never the shape that the
    plain layer's weight has, so that code which does not know the format cannot load it by mistake."""
    scales: Tensor
    """float16 [R, G], whatever the model is cast to."""

    def __init__(self, rows: Tensor, bits: int, group_size: int = GROUP_SIZE) -> None:
        super().__init__()
        values, scales = packing.quantize(rows.detach(), bits, group_size)
        self.register_buffer("weight", values.reshape(*scales.shape, -1))
        self.register_buffer("scales", scales)
        self.bits = bits
        self.dtype = rows.dtype

    @property
    def values(self) -> Tensor:
        """The values as the operators read them: int8 [R, C] or uint8 [R, C / 2], a view."""
        return self.weight.flatten(1)

    def rows(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return what the values stand for, [R, C], in `dtype` or that of the model."""
        return packing.dequantize(self.values, self.scales).to(dtype or self.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move as any module does, but keep the scales what they are when the model is cast."""
        scales = self.scales
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=scales.device)).dtype
        super()._apply(fn, recurse)
        if self.scales.dtype != scales.dtype:
            self.scales = scales.to(self.scales.device)
        return self


class QuantizedLinear(QuantizedMatrix):
    """A Linear or Conv1D whose weight is a `QuantizedMatrix`.

    Args:
        projection: It is not changed; its bias is shared.
        bits: 8 or 4.
        is_down: Whether its rows are its inputs: the down projection of an FFN.
        group_size: Values that share a scale: 32, 64 or 128.

    Raises:
        ValueError: The rows are no multiple of `group_size` long.
    """

    def __init__(
        self, projection: nn.Module, bits: int, *, is_down: bool, group_size: int = GROUP_SIZE
    ) -> None:
        rows = matrix_rows(projection, is_down=is_down)
        super().__init__(rows, bits, group_size)
        self.bias = cast("nn.Parameter | None", projection.bias)
        self.is_down = is_down
        self.in_features, self.out_features = rows.shape if is_down else rows.shape[::-1]

    def dense_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight as a Linear has it, [out, in], in `dtype` or that of the model."""
        rows = self.rows(dtype)
        return rows.T if self.is_down else rows

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + bias for x [..., in]; for prompts, and models without a sparse path."""
        return functional.linear(x, self.dense_weight(x.dtype), self.bias)


class QuantizedEmbedding(QuantizedMatrix):
    """An Embedding whose table is a `QuantizedMatrix`: the rows that are asked for are unpacked."""

    def __init__(self, embedding: nn.Embedding, bits: int, group_size: int = GROUP_SIZE) -> None:
        super().__init__(embedding.weight, bits, group_size)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings of ids [...], [..., D]."""
        chosen = ids.flatten()
        rows = packing.dequantize(self.values[chosen], self.scales[chosen]).to(self.dtype)
        return rows.reshape(*ids.shape, -1)


class TiedHead(nn.Module):
    """A head whose weight is that of a `QuantizedEmbedding`; it holds none of its own.

    Args:
        embedding: Whose matrix it multiplies with.
        bias: Of the head, or None.
    """

    def __init__(self, embedding: QuantizedEmbedding, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.bias = bias
        # In a tuple it is no submodule: a state dict names it once.
        self._shared = (embedding,)

    @property
    def embedding(self) -> QuantizedEmbedding:
        """Whose matrix it multiplies with."""
        return self._shared[0]

    @property
    def values(self) -> Tensor:
        """As in `QuantizedMatrix`."""
        return self._shared[0].values

    @property
    def scales(self) -> Tensor:
        """As in `QuantizedMatrix`."""
        return self._shared[0].scales

    def dense_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight [V, D], in `dtype` or that of the model."""
        return self._shared[0].rows(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x [..., D]."""
        return functional.linear(x, self.dense_weight(x.dtype), self.bias)


def matrix_rows(projection: nn.Module, *, is_down: bool) -> Tensor:
    """Return the weight of a Linear, Conv1D or Embedding with its rows as they are quantized, a view."""
    weight = projection.get_parameter("weight")
    return weight.T if isinstance(projection, Conv1D) != is_down else weight
