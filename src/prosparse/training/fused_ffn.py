# SPDX-License-Identifier: Apache-2.0
"""A gated FFN in training, its intermediate x_1 from one kernel with the L1 norm and the count.

The module stays what it is and where it is; only its class is exchanged for a subclass with another
`forward`, as `prosparse.runtime.sparse_ffn` does, so names, parameters, hooks, state dicts and saved
checkpoints stay as well. Its projections are called as the modules they are, adapters included.
Passes without gradients, such as an evaluation, go through the forward of the model itself.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from prosparse.kernels.backend import is_forced, training_backend
from prosparse.kernels.reglu import DTYPES, reglu
from prosparse.model.activation import FATReLU, ShiftedReLU
from prosparse.model.gated import is_only_gated_ffn, pre_activations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prosparse.model.ffn import FFN

PATH = "_fused_path"


class FusedPath:
    """The fused way through one FFN.

    Args:
        ffn: A gated FFN.
        mask: Returns bool [T], false where a token of the pass is padding, or None.
        collect: Receives ||x_1||_1 and the number of non-zeros in each pass.
    """

    def __init__(
        self,
        ffn: FFN,
        mask: Callable[[], Tensor | None],
        collect: Callable[[Tensor, Tensor], None],
    ) -> None:
        self.ffn = ffn
        self.mask = mask
        self.collect = collect
        activation = ffn.activation
        self.threshold = activation.param if isinstance(activation, FATReLU) else None
        self.shift = activation.param if isinstance(activation, ShiftedReLU) else None

    def run(self, x: Tensor) -> Tensor:
        """Return the FFN's output for x [..., D]."""
        gate_pre, up = pre_activations(self.ffn, x)
        x1_TF, l1, num_active = reglu(
            gate_pre.flatten(0, -2),
            up.flatten(0, -2),
            self.mask(),
            threshold=self.threshold,
            shift=self.shift or 0.0,
            owns_inputs=True,
        )
        self.collect(l1, num_active)
        return self.ffn.down(x1_TF.view(up.shape))


class RunsFused(nn.Module):
    """Mixed into the module of a gated FFN."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the FFN the fused way where there are gradients."""
        path = cast("FusedPath | None", vars(self).get(PATH))
        if path is None or not torch.is_grad_enabled():
            return super().forward(x)
        return path.run(x)


def is_fusible(ffn: FFN, device: torch.device) -> bool:
    """Return whether an FFN can be trained the fused way, and a kernel for it runs on `device`.

    Without a GPU the plain PyTorch form of the kernel would gain nothing; it runs where
    `prosparse.kernels.backend.use_backend` asks for it.
    """
    if not (is_forced() or training_backend(device) != "reference"):
        return False
    if not ffn.is_gated or type(ffn.activation) not in (nn.ReLU, FATReLU, ShiftedReLU):
        return False
    if any(part._forward_hooks or part._forward_pre_hooks for part in _bypassed(ffn)):
        return False
    weight = ffn.weights()["up_proj"]
    if weight.dtype not in DTYPES or weight.device.type == "meta":
        return False
    with _in_training_mode(ffn.module):
        return is_only_gated_ffn(ffn)


def _bypassed(ffn: FFN) -> list[nn.Module]:
    """Return the modules whose hooks would not be called, or would keep what is overwritten."""
    names = (ffn.family.gate, ffn.family.up)
    return [ffn.activation, *(ffn.module.get_submodule(name) for name in names if name)]


@contextlib.contextmanager
def fused(
    ffn: FFN, mask: Callable[[], Tensor | None], collect: Callable[[Tensor, Tensor], None]
) -> Iterator[None]:
    """Run a fusible FFN the fused way inside the block; see `FusedPath` for the arguments."""
    module, before = ffn.module, type(ffn.module)
    module.__class__ = exchanged = _fused_class(before)
    setattr(module, PATH, FusedPath(ffn, mask, collect))
    try:
        yield
    finally:
        delattr(module, PATH)
        # A wrapper that exchanged the class once more (FSDP) keeps it, and the model's own forward.
        if type(module) is exchanged:
            module.__class__ = before


@contextlib.contextmanager
def _in_training_mode(module: nn.Module) -> Iterator[None]:
    before = {part: part.training for part in module.modules()}
    module.train()
    try:
        yield
    finally:
        for part, was_training in before.items():
            part.training = was_training


@functools.cache
def _fused_class(base: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass; one for each class, so that compiled code knows it again."""
    return cast("type[nn.Module]", type(f"Fused{base.__name__}", (RunsFused, base), {}))
