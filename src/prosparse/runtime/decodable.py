# SPDX-License-Identifier: Apache-2.0
"""Which models can be decoded by fixed steps, and why the others cannot."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import transformers
from packaging.version import Version
from transformers.cache_utils import StaticCache, StaticLayer, StaticSlidingWindowLayer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

# Tensors indexed with Python lists; found by watching a step of every family for such copies.
COPIES_FROM_HOST = ("falcon",)
# Flash attention wants other caches; older versions make eager attention's mask from a constant.
EAGER_IS_CAPTURABLE = Version(transformers.__version__) >= Version("5.23")
CAPTURABLE = ("sdpa", "eager") if EAGER_IS_CAPTURABLE else ("sdpa",)


def why_no_decoder(model: PreTrainedModel) -> str | None:
    """Return why a model cannot be decoded by fixed steps, as one sentence; None when it can."""
    kind = model.config.model_type
    if not model._can_compile_fullgraph or "position_ids" not in arguments(model):
        return f"transformers runs '{kind}' only with a cache that grows."
    if kind in COPIES_FROM_HOST:
        return f"The code of '{kind}' copies constants from the host, which no CUDA graph can hold."
    attention = model.config._attn_implementation
    if attention not in CAPTURABLE:
        return f"Attention '{attention}' cannot be captured; load the model with attention 'sdpa'."
    layers = StaticCache(config=model.config, max_cache_len=1).layers
    if not all(type(layer) in (StaticLayer, StaticSlidingWindowLayer) for layer in layers):
        return f"'{kind}' keeps more of its past than keys and values."
    moving = [rope for rope in _rope_types(model) if "dynamic" in rope or rope == "longrope"]
    if moving:
        return f"Its rotary embedding ('{moving[0]}') asks the host for the length at every step."
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(devices) > 1:
        return f"Its weights are spread over {', '.join(devices)}."
    return None


def num_cache_layers(model: PreTrainedModel) -> int:
    """Return for how many layers the model keeps keys and values."""
    return len(StaticCache(config=model.config, max_cache_len=1).layers)


def cache_name(model: PreTrainedModel) -> str:
    """Return what the model's forward, and its output, call the cache: transformers 5.24 renamed it."""
    return "cache" if "cache" in arguments(model) else "past_key_values"


def arguments(model: PreTrainedModel) -> set[str]:
    """Return the names of the arguments of the model's forward."""
    return set(inspect.signature(model.forward).parameters)


def _rope_types(model: PreTrainedModel) -> Iterator[str]:
    for module in model.modules():
        found = vars(module).get("rope_type")  # one, or one for each type of layer
        if isinstance(found, dict):
            yield from found.values()
        elif isinstance(found, str):
            yield found
