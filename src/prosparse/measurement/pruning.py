# SPDX-License-Identifier: Apache-2.0
"""Switch weak neurons off while a model runs, by the metrics of Sparsing Law (arXiv:2411.02335).

FAT-epsilon and top-k look at act(gate), or at act(up) in a plain FFN; CETT looks at what a neuron
adds to the output, |x_1j| * ||down_proj[:, j]||. What is switched off is an exact zero in x_1, so
whatever counts zeros there, counts them. Ties are kept, as FATReLU keeps them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from prosparse.model.ffn import FFN


@contextlib.contextmanager
def prune_below(ffns: Sequence[FFN], epsilon: float) -> Iterator[None]:
    """FAT-epsilon inside the block: one threshold for |act(gate)| of all neurons and layers."""
    with _after_activation(ffns, lambda a: a.masked_fill(a.abs() < epsilon, 0)):
        yield


@contextlib.contextmanager
def keep_top(ffns: Sequence[FFN], share: float) -> Iterator[None]:
    """Top-k inside the block: each token keeps exactly the k largest |act(gate)| of each layer.

    Args:
        ffns: The FFNs.
        share: k over d_ff, in (0, 1]; k is rounded, and at least 1.
    """
    with _after_activation(ffns, lambda a: top_k(a, max(1, round(share * a.shape[-1])))):
        yield


@contextlib.contextmanager
def prune_contributions(ffns: Sequence[FFN], thresholds: Sequence[float]) -> Iterator[None]:
    """CETT's pruning inside the block: neuron j goes where |x_1j| * ||down_proj[:, j]|| < t.

    Args:
        ffns: The FFNs.
        thresholds: t of each layer.
    """

    def hook_for(norm_F: Tensor, threshold: float) -> Callable[..., tuple[Tensor, ...]]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x1, *others = args
            return x1.masked_fill(contributions(x1, norm_F) < threshold, 0), *others

        return hook

    with contextlib.ExitStack() as handles:
        for ffn, threshold in zip(ffns, thresholds, strict=True):
            hook = hook_for(column_norms(ffn), threshold)
            handles.enter_context(ffn.down.register_forward_pre_hook(hook))
        yield


def contributions(x1: Tensor, norm_F: Tensor) -> Tensor:
    """Return |x_1j| * ||down_proj[:, j]||, what each neuron adds to the output, float32 [..., F]."""
    return x1.abs().float() * norm_F


def top_k(activations: Tensor, k: int) -> Tensor:
    """Return [..., F] with all but the k entries of largest magnitude set to zero; ties by index."""
    kept = activations.abs().topk(k, dim=-1).indices
    return torch.zeros_like(activations).scatter_(-1, kept, activations.gather(-1, kept))


def column_norms(ffn: FFN) -> Tensor:
    """Return the Euclidean norm of each column of `down_proj`, float32 [F]."""
    return ffn.weights()["down_proj"].detach().float().norm(dim=0)


@contextlib.contextmanager
def _after_activation(ffns: Sequence[FFN], prune: Callable[[Tensor], Tensor]) -> Iterator[None]:
    with contextlib.ExitStack() as handles:
        for ffn in ffns:
            handles.enter_context(
                ffn.activation.register_forward_hook(lambda _module, _args, output: prune(output))
            )
        yield
