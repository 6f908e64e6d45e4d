# SPDX-License-Identifier: Apache-2.0
"""Look at what goes into every FFN while the model runs: what an activation predictor may read.

`ffn-input` is the input of the FFN's first projection, after the norm. `residual` is the input of the
module that made it, so the residual stream before the norm: what PowerInfer's predictors read. Neither
has a name that all families share; the latter is recognized by its output, the very tensor that the
FFN is given.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor, nn

from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel

    from prosparse.model.ffn import FFN

InputKind = Literal["ffn-input", "residual"]
INPUT_KINDS: tuple[InputKind, ...] = get_args(InputKind)


@contextlib.contextmanager
def tap_inputs(
    model: PreTrainedModel,
    ffns: Sequence[FFN],
    kind: InputKind,
    observe: Callable[[int, Tensor], None],
) -> Iterator[None]:
    """Call `observe(layer, x)` each time an FFN is about to run inside the `with` block.

    Args:
        model: The model that the FFNs are of.
        ffns: The FFNs to look at.
        kind: Which input.
        observe: Receives the layer's index and the input [..., D] in the model's dtype.

    Raises:
        UserError: During a pass: nothing in the layer made the FFN's input out of the residual.
    """
    with contextlib.ExitStack() as handles:
        for ffn in ffns:
            first = ffn.module.get_submodule(ffn.family.gate or ffn.family.up)
            if kind == "ffn-input":
                hook = _hook(ffn.layer, observe)
            else:
                makers = _Makers(ffn)
                for child in layer_of(model, ffn).children():
                    if child is not ffn.module:
                        handles.enter_context(child.register_forward_hook(makers.note))
                hook = makers.hook(observe)
            handles.enter_context(first.register_forward_pre_hook(hook))
        yield


def layer_of(model: PreTrainedModel, ffn: FFN) -> nn.Module:
    """Return the decoder layer that an FFN belongs to."""
    return model.get_submodule(f"{ffn.family.layers}.{ffn.layer}")


def norm_of(model: PreTrainedModel, ffn: FFN) -> nn.Module | None:
    """Return the module between residual and FFN where it is called what llama calls it, else None."""
    return getattr(layer_of(model, ffn), "post_attention_layernorm", None)


def _hook(
    layer: int, observe: Callable[[int, Tensor], None]
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        observe(layer, args[0])

    return hook


class _Makers:
    """The tensors that a layer's modules made in this pass, and what they made them of."""

    def __init__(self, ffn: FFN) -> None:
        self._ffn = ffn
        self._made: list[tuple[Tensor, Tensor]] = []

    def note(self, _module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            self._made.append((args[0], output))

    def hook(
        self, observe: Callable[[int, Tensor], None]
    ) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            made, self._made = self._made, []
            address = args[0].data_ptr()
            residual = next((x for x, y in made if y.data_ptr() == address), None)
            if residual is None:
                raise UserError(
                    f"No module of the layer turns the residual stream into the input of "
                    f"{self._ffn.name}; collect with --input ffn-input."
                )
            observe(self._ffn.layer, residual)

        return hook
