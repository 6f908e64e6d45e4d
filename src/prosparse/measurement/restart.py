# SPDX-License-Identifier: Apache-2.0
"""Run a model from one of its layers on, where all below it is as it was in an earlier pass."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from prosparse.model.ffn import ffns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel


class Restart:
    """Keeps what the decoder layers return in one pass, and gives it back in others.

    A change in layer l leaves the layers below it alone: with L layers to change one by one, keeping
    their outputs [B, S, D] halves the work. The numbers are those of a whole pass.

    Args:
        model: A causal language model; run it without a cache of keys and values.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._layers = cast("nn.ModuleList", model.get_submodule(ffns(model)[0].family.layers))
        self._outputs: list[Any] = []

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Keep what each layer returns in the one pass inside the block."""
        self._outputs = []
        with contextlib.ExitStack() as handles:
            for layer in self._layers:
                hook = layer.register_forward_hook(lambda *seen: self._outputs.append(seen[-1]))
                handles.enter_context(hook)
            yield

    @contextlib.contextmanager
    def above(self, layer: int) -> Iterator[None]:
        """Skip the layers below `layer` inside the block, for the same input as was kept."""
        skipped = list(self._layers[:layer])
        own = [vars(module).get("forward") for module in skipped]  # of modules that are offloaded
        for module in skipped:
            module.forward = lambda *_args, **_kwargs: self._outputs[layer - 1]
        try:
            yield
        finally:
            for module, forward in zip(skipped, own, strict=True):
                del module.forward  # the class's comes back
                if forward is not None:
                    module.forward = forward
