# SPDX-License-Identifier: Apache-2.0
"""FFN projections in 8 or 4 bits: what decoding reads shrinks once more, on top of sparsity.

A few tensors of a trained model do not bear it: where activations are massive, rounding a handful of
weights ruins the whole model ("super weights"). They cannot be told by looking at the weights, so
`plan_bits` measures: each projection is quantized alone and the loss on some text decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from prosparse.errors import UserError
from prosparse.kernels import quantize as packing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prosparse.model.ffn import FFN

GROUP_SIZE = 64

OnProjection = Callable[[int, int], None]
"""Called with how many projections have been tried, and how many there are."""


class QuantizedLinear(nn.Module):
    """An FFN projection stored neuron-major as (values, scales); see `prosparse.kernels.quantize`.

    Args:
        projection: A Linear or Conv1D; it is not changed.
        bits: 8 or 4.
        is_down: Whether it is the down projection, whose neurons are its inputs.
        group_size: Weights along d_model that share a scale: 32, 64 or 128.

    Raises:
        ValueError: d_model is no multiple of `group_size`.
    """

    values: Tensor
    scales: Tensor

    def __init__(
        self, projection: nn.Module, bits: int, *, is_down: bool, group_size: int = GROUP_SIZE
    ) -> None:
        super().__init__()
        weight = projection.get_parameter("weight").detach()
        rows = weight.T if isinstance(projection, Conv1D) != is_down else weight
        values, scales = packing.quantize(rows, bits, group_size)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)
        self.bias = cast("nn.Parameter | None", projection.bias)
        self.is_down = is_down
        self.bits = bits
        self.dtype = weight.dtype
        self.in_features, self.out_features = rows.shape if is_down else rows.shape[::-1]

    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight as a Linear has it, [out, in], in `dtype` or that of the checkpoint."""
        rows = packing.dequantize(self.values, self.scales).to(dtype or self.dtype)
        return rows.T if self.is_down else rows

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + bias for x [..., in]; for prompts, and models without a sparse path."""
        return functional.linear(x, self.weight(x.dtype), self.bias)

    def _save_to_state_dict(self, *_args: Any, **_kwargs: Any) -> None:
        raise UserError(
            "The FFNs of this model were quantized in memory, which no checkpoint format of "
            "transformers knows; save the model before quantizing it."
        )


def quantize_ffns(
    model: PreTrainedModel, bits: int | Mapping[str, int | None], *, group_size: int = GROUP_SIZE
) -> None:
    """Quantize the projections of every FFN in place, one after the other; each is held once.

    Args:
        model: Its FFNs in float32, bfloat16 or float16, not quantized and not accelerated.
        bits: 8 or 4 for all; or for each projection, by its dotted name; None keeps it as it is.
        group_size: Weights along d_model that share a scale: 32, 64 or 128.

    Raises:
        UserError: It is quantized already, or d_model is no multiple of `group_size`.
    """
    _refuse(model, group_size)
    for name, owner, child, is_down in projections(model):
        wanted = bits if isinstance(bits, int) else bits[name]
        if wanted is not None:
            projection = getattr(owner, child)
            setattr(
                owner,
                child,
                QuantizedLinear(projection, wanted, is_down=is_down, group_size=group_size),
            )


def plan_bits(
    model: PreTrainedModel,
    ids: Tensor,
    bits: int,
    *,
    max_increase: float = 0.002,
    group_size: int = GROUP_SIZE,
    on_projection: OnProjection = lambda done, total: None,
) -> dict[str, int | None]:
    """Return in how many bits each FFN projection can be held: `bits`, 8, or None where neither can.

    Args:
        model: As for `quantize_ffns`; unchanged afterwards.
        ids: [B, S] token ids of ordinary text, S >= 2.
        bits: 8 or 4: what to try first.
        max_increase: Largest increase of the mean loss, in nats per token, that quantizing one
            projection alone may cause.
        group_size: Weights along d_model that share a scale: 32, 64 or 128.
        on_projection: Progress.

    Raises:
        UserError: As for `quantize_ffns`, or `bits` or `ids` are of no use.
    """
    _refuse(model, group_size)
    if bits not in (4, 8):
        raise UserError(f"FFNs are held in 4 or 8 bits; found {bits}.")
    if ids.dim() != 2 or ids.shape[0] < 1 or ids.shape[1] < 2:
        raise UserError(
            "What bears few bits is measured on text: give token ids [B, S] with at least two tokens "
            f"in a row; found {list(ids.shape)}."
        )
    found = projections(model)
    limit = _loss(model, ids) + max_increase
    plan: dict[str, int | None] = {}
    for done, (name, owner, child, is_down) in enumerate(found, start=1):
        projection = getattr(owner, child)
        plan[name] = None
        try:
            for tried in dict.fromkeys((bits, 8)):
                quantized = QuantizedLinear(
                    projection, tried, is_down=is_down, group_size=group_size
                )
                setattr(owner, child, quantized)
                if _loss(model, ids) <= limit:
                    plan[name] = tried
                    break
        finally:
            setattr(owner, child, projection)
        on_projection(done, len(found))
    return plan


def quantize(
    model: PreTrainedModel,
    ids: Tensor,
    *,
    bits: int = 4,
    max_increase: float = 0.002,
    on_projection: OnProjection = lambda done, total: None,
) -> dict[str, int | None]:
    """Quantize the FFNs of a loaded model in place, but for what a text shows not to bear it.

    Args:
        model: A causal language model, loaded whole, not accelerated yet.
        ids: [B, S] token ids of ordinary text, S >= 2; some hundred tokens will do.
        bits: 8 or 4: what to try first; 8 is tried next.
        max_increase: Largest increase of the mean loss, in nats per token, for one projection alone.
        on_projection: Progress.

    Returns:
        The bits of each projection, by its dotted name; None where it stays as it was.

    Raises:
        UserError: It is quantized already, or d_model is no multiple of 64.

    Example:
        >>> import prosparse as ps
        >>> network = ps.load("runs/demo/model", device="cuda")
        >>> ids = ps.load_tokenizer("runs/demo/model")(text, return_tensors="pt").input_ids
        >>> bits = ps.quantize(network, ids.to("cuda"))
        >>> accelerated = ps.accelerate(network)
    """
    plan = plan_bits(model, ids, bits, max_increase=max_increase, on_projection=on_projection)
    quantize_ffns(model, plan)
    return plan


def projections(model: PreTrainedModel) -> list[tuple[str, nn.Module, str, bool]]:
    """Return of every FFN projection its dotted name, owner and attribute, and if it is `down`."""
    from prosparse.model.ffn import ffns

    found = []
    for ffn in ffns(model):
        for part in _parts(ffn):
            owner, _, child = part.rpartition(".")
            place = ffn.module.get_submodule(owner)
            found.append((f"{ffn.name}.{part}", place, child, part == ffn.family.down))
    return found


def _refuse(model: PreTrainedModel, group_size: int) -> None:
    from prosparse.model.ffn import ffns

    for _, owner, child, _ in projections(model):
        if isinstance(getattr(owner, child), QuantizedLinear):
            raise UserError("The FFNs of this model are quantized already.")
    for ffn in ffns(model):
        if ffn.d_model % group_size:
            raise UserError(
                f"Weights share scales in groups of {group_size} along d_model, which must be a "
                f"multiple of it; that of {ffn.name} is {ffn.d_model}."
            )


def _parts(ffn: FFN) -> list[str]:
    family = ffn.family
    return [part for part in (family.gate, family.up, family.down) if part]


@torch.no_grad()
def _loss(model: PreTrainedModel, ids: Tensor) -> float:
    """Return the mean loss in nats for each token, one row at a time."""
    losses = []
    for row in ids:
        output: Any = model(input_ids=row[None], use_cache=False)
        losses.append(functional.cross_entropy(output.logits[0, :-1].float(), row[1:]).item())
    return sum(losses) / len(losses)
