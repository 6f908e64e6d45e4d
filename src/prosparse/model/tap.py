# SPDX-License-Identifier: Apache-2.0
"""Look at the intermediate x_1 of every FFN while the model runs.

x_1, the input of `down_proj`, is what ProSparse regularizes and what sparsity is measured on. No
family hands it out, so `tap` hooks the down projections. A hook that never fires would make a
silently wrong number, and one that stays would slow every later pass: `tap` refuses the former and
always takes its hooks off again.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from prosparse.model.ffn import FFN


@contextlib.contextmanager
def tap(ffns: Sequence[FFN], observe: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `observe(layer, x_1)` each time an FFN runs inside the `with` block.

    A compiled model keeps the hooks it had when it was compiled: open the block before its first
    pass.

    Args:
        ffns: The FFNs to look at.
        observe: Receives the layer's index and x_1 of shape [..., F], in the model's dtype and
            attached to its autograd graph. Some families (opt) flatten batch and sequence first.

    Raises:
        ValueError: `ffns` is empty.
        RuntimeError: On leaving, some FFNs had run and others had not.

    Example:
        >>> with tap(ffns(model), lambda layer, x_1: print(layer, (x_1 == 0).float().mean())):
        ...     model(input_ids)
    """
    if not ffns:
        raise ValueError("tap needs at least one FFN to look at; it was given none.")
    seen: set[str] = set()

    def hook_for(ffn: FFN) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if not torch.compiler.is_compiling():  # a set that grows would force a recompilation
                seen.add(ffn.name)
            observe(ffn.layer, args[0])

        return hook

    with contextlib.ExitStack() as handles:
        for ffn in ffns:
            handles.enter_context(ffn.down.register_forward_pre_hook(hook_for(ffn)))
        yield
    missed = [ffn.name for ffn in ffns if ffn.name not in seen]
    if seen and missed:
        raise RuntimeError(
            f"The forward pass never ran the down projection of {', '.join(missed)}, although it "
            "ran others: what was observed is not the whole model."
        )
