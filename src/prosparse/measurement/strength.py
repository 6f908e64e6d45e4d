# SPDX-License-Identifier: Apache-2.0
"""How strong a neuron is for a token: what a threshold is compared with."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from prosparse.measurement.pruning import column_norms, contributions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from prosparse.model.ffn import FFN


class Strength(Protocol):
    """A strength of every entry of x_1, >= 0."""

    def watch(self) -> contextlib.AbstractContextManager[None]:
        """Return a block in which the model must run for `of` to know its strengths."""
        ...

    def of(self, layer: int, x1: Tensor) -> Tensor:
        """Return the strengths of a layer's entries, float32, in the shape of x1 [..., F]."""
        ...


class Contributions:
    """What a neuron adds to the output, |x_1j| * ||down_proj[:, j]||: the strength of CETT."""

    def __init__(self, ffns: Sequence[FFN]) -> None:
        self._norms = [column_norms(ffn) for ffn in ffns]

    def watch(self) -> contextlib.AbstractContextManager[None]:
        """Return a block that does nothing: x_1 says it all."""
        return contextlib.nullcontext()

    def of(self, layer: int, x1: Tensor) -> Tensor:
        """Return |x_1j| * ||down_proj[:, j]||."""
        return contributions(x1, self._norms[layer])


class GateValues:
    """act(gate), or act(up) in a plain FFN, of a ReLU model: what FATReLU compares with t."""

    def __init__(self, ffns: Sequence[FFN]) -> None:
        self._ffns = ffns
        self._latest: dict[int, Tensor] = {}

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Keep the activations of each layer's last pass inside the block."""

        def hook_for(layer: int) -> Callable[..., None]:
            def hook(_module: nn.Module, _args: object, output: Tensor) -> None:
                self._latest[layer] = output

            return hook

        with contextlib.ExitStack() as handles:
            for ffn in self._ffns:
                handles.enter_context(ffn.activation.register_forward_hook(hook_for(ffn.layer)))
            yield
        self._latest.clear()

    def of(self, layer: int, x1: Tensor) -> Tensor:
        """Return act(gate)."""
        return self._latest[layer].float().reshape(x1.shape)
