# SPDX-License-Identifier: Apache-2.0
"""Masks and intermediates to count by hand."""

import torch
from hypothesis import strategies as st


@st.composite
def masks(draw, max_windows=5, max_length=9, max_neurons=7) -> torch.Tensor:
    """Bool [B, S, F] of any density, none and all included."""
    shape = tuple(draw(st.integers(1, top)) for top in (max_windows, max_length, max_neurons))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return torch.rand(shape, generator=generator) < density


def intermediates(model, ids) -> list[torch.Tensor]:
    """Return x_1 of each layer of a Llama, [B, S, F], as the down projection receives it."""
    seen = []
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return seen
