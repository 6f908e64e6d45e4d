# SPDX-License-Identifier: Apache-2.0
"""The L1 penalty on the intermediate x_1, and what is counted along the way.

Equation 2 of ProSparse: L_reg = lambda * sum over layers of ||x_1||_1, with x_1 = act(gate) * up.
The paper leaves its normalization open, and that decides what a lambda means. Here the loss is

    lambda * kappa * mean over tokens of (sum over layers of ||x_1||_1),

the mean being over every real token of the optimizer step: all micro-batches, all processes,
without padding. Tokens of a prompt count as well, whether or not they are learned: Equation 2 knows
no targets, and a prompt runs through the same FFNs. So lambda means the same at any batch size,
accumulation or world size. The normalization-free coefficient c = lambda * kappa is what logs and
records state beside lambda.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prosparse.errors import UserError
from prosparse.model.ffn import FFN
from prosparse.model.tap import tap
from prosparse.training.fused_ffn import fused, is_fusible

Normalization = Literal["mean", "summed"]
Profile = Literal["rising", "falling"]
RANGE = (0.5, 1.5)
"""Weights of a profile's two ends."""


def kappa(normalization: Normalization, d_ff: int, reference_tokens: int | None) -> float:
    """Return what lambda is multiplied by to give the coefficient c.

    Args:
        normalization: `mean` is 1 / F, so lambda weighs the mean |x_1| of an element, summed over
            layers. `summed` is 1e-8 * reference_tokens: the form in the authors' later code, where
            the L1 is summed over a micro-batch and scaled by 1e-8, so that the paper's own lambdas
            apply once the micro-batch's size in tokens is given.
        d_ff: F, neurons of a layer.
        reference_tokens: Tokens of the micro-batch that a `summed` lambda was tuned with.

    Raises:
        UserError: `summed` without `reference_tokens`, or the other way round.
    """
    if normalization == "mean":
        if reference_tokens is not None:
            raise UserError("reference_tokens applies to 'normalization: summed' only.")
        return 1.0 / d_ff
    if reference_tokens is None or reference_tokens <= 0:
        raise UserError(
            "'normalization: summed' needs reference_tokens, the tokens of one micro-batch "
            f"(a whole number > 0); found {reference_tokens}."
        )
    return 1e-8 * reference_tokens


def layer_weights(
    wanted: Profile | Sequence[float] | None, num_layers: int
) -> tuple[float, ...] | None:
    """Return what each layer's L1 norm is multiplied by: with a mean of 1, so lambda keeps its meaning.

    Not in the paper, where all layers weigh the same.

    Args:
        wanted: `rising` goes in a straight line from half in the lowest layer to one and a half in the
            highest; `falling` the other way; or a number >= 0 for each layer, lowest first. None
            weighs none, and returns None.
        num_layers: L.

    Raises:
        UserError: A list of another length, with a negative number, or of zeros alone.
    """
    if wanted is None:
        return None
    if isinstance(wanted, str):
        low, high = RANGE if wanted == "rising" else RANGE[::-1]
        steps = max(1, num_layers - 1)
        wanted = [low + (high - low) * layer / steps for layer in range(num_layers)]
    if len(wanted) != num_layers:
        raise UserError(
            f"layer_weights has {len(wanted)} numbers, but the model has {num_layers} layers."
        )
    if not (all(0 <= weight < float("inf") for weight in wanted) and sum(wanted) > 0):
        raise UserError(
            f"layer_weights must be numbers >= 0, not all of them 0; found {list(wanted)}."
        )
    return tuple(weight * num_layers / sum(wanted) for weight in wanted)


@dataclass(slots=True)
class Intermediates:
    """What one forward pass showed of x_1."""

    l1_L: list[Tensor]
    """||x_1||_1 over the real tokens, one float32 scalar a layer, with its autograd graph."""
    active_L: Tensor
    """Non-zero entries of x_1 over the real tokens, int64 [L]."""


class Collected:
    """What the last pass showed of x_1 of one layer.

    Every layer has its own, reached from its module: so code compiled for one layer is that of all.

    Args:
        penalty: Says when to collect.
    """

    def __init__(self, penalty: SparsityPenalty) -> None:
        self._penalty = penalty
        self.l1: Tensor | None = None
        self.active: Tensor | None = None

    def put(self, l1: Tensor, active: Tensor) -> None:
        """Keep ||x_1||_1 and the number of non-zeros of a pass."""
        # Compiled code keeps one graph for a pass and its recomputation, which checkpointing holds
        # to saving the same tensors; what that collects is forgotten with the next pass.
        if torch.compiler.is_compiling() or self._penalty.is_collecting:
            self.l1, self.active = l1, active

    def take(self) -> tuple[Tensor, Tensor]:
        """Return what is kept, and keep it no longer."""
        l1, active = self.l1, self.active
        assert l1 is not None, "the layer has not run"
        assert active is not None
        self.l1 = self.active = None
        return l1, active


class SparsityPenalty:
    """Watches x_1 of every FFN during training forward passes.

    Where it can, one kernel computes x_1 and what is to be seen of it (`prosparse.training.fused_ffn`);
    elsewhere hooks look at x_1 once it is there.

    Gradient checkpointing runs the forward again during backward. The same is then computed again, as
    checkpointing demands, but nothing is collected: collection is open only inside `collect`, which
    the backward pass is never in.

    Args:
        ffns: Those of the model.
        device: Where the model will be trained.
        weights: Of each layer, from `layer_weights`.
    """

    def __init__(
        self,
        ffns: Sequence[FFN],
        device: torch.device,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._ffns = ffns
        self._device = device
        self.weights = weights
        self._weights_L = None if weights is None else torch.tensor(weights, device=device)
        self._mask_T: Tensor | None = None
        self.is_collecting = False
        self._collected = [Collected(self) for _ in ffns]

    @contextmanager
    def attached(self) -> Iterator[SparsityPenalty]:
        """Watch the model for the length of the block; it is what it was afterwards.

        For a whole training run: a compiled model keeps only the hooks, and the classes of modules,
        that it was compiled with.
        """
        watched = [ffn for ffn in self._ffns if is_fusible(ffn, self._device)]
        others = [ffn for ffn in self._ffns if ffn not in watched]
        with ExitStack() as stack:
            for ffn in watched:
                stack.enter_context(fused(ffn, self._mask, self._collected[ffn.layer].put))
            if others:
                stack.enter_context(tap(others, self._observe))
            yield self

    @contextmanager
    def collect(self, attention_mask: Tensor | None) -> Iterator[None]:
        """Collect during the forward pass inside the block; `take` returns it afterwards.

        Args:
            attention_mask: [B, S], 0 where there is padding; None when there is none.
        """
        self._mask_T = None if attention_mask is None else attention_mask.reshape(-1).bool()
        self.is_collecting = True
        try:
            yield
        finally:
            self.is_collecting = False

    def take(self) -> Intermediates:
        """Return what the last `collect` block saw."""
        l1_L, active_L = zip(*(layer.take() for layer in self._collected), strict=True)
        return Intermediates(list(l1_L), torch.stack(active_L))

    def total(self, seen: Intermediates) -> Tensor:
        """Return the sum over layers of ||x_1||_1, each with its layer's weight."""
        l1_L = torch.stack(seen.l1_L)
        if self._weights_L is not None:
            l1_L = l1_L * self._weights_L
        return l1_L.sum()

    def _observe(self, layer: int, x1: Tensor) -> None:
        if not torch.is_grad_enabled():
            return  # an evaluation in the middle of training
        x1_TF = x1.reshape(-1, x1.shape[-1])
        if self._mask_T is not None:
            x1_TF = x1_TF * self._mask_T[:, None]
        # abs keeps x_1 for its backward, which down_proj keeps anyway: no memory is added.
        l1 = x1_TF.abs().sum(dtype=torch.float32)
        self._collected[layer].put(l1, torch.count_nonzero(x1_TF.detach()))

    def _mask(self) -> Tensor | None:
        return self._mask_T
