# SPDX-License-Identifier: Apache-2.0
"""vLLM's model classes with the activation that our config names.

vLLM builds the model as a dense one that it knows, then its FFNs get the activation they should have,
and once weights are loaded their sparse path. A config that names no activation of ours builds what it
always built.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, cast

from vllm.model_executor.models.utils import maybe_prefix

from prosparse.errors import UserError
from prosparse.model.activation import SPARSE_ACTIVATIONS
from prosparse.model.families import FAMILIES, Family
from prosparse.model.relufy import OWN_KEY
from prosparse.serving.vllm.ffns import ServedFFN, find_ffns
from prosparse.serving.vllm.options import read_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from transformers import PreTrainedConfig


@functools.cache
def sparse_version(stock: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of one of vLLM's model classes that knows our activations."""

    class Sparse(stock):
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            config = vllm_config.model_config.hf_config
            family = sparse_family(config)
            if family is None:
                super().__init__(vllm_config=vllm_config, prefix=prefix)
                self.served_ffns: list[ServedFFN] = []
                return
            options = read_options(vllm_config.additional_config)
            with dense_activation(config, family):
                super().__init__(vllm_config=vllm_config, prefix=prefix)
            self.served_ffns = find_ffns(self, family, config, options)
            for ffn in self.served_ffns:
                ffn.name = maybe_prefix(prefix, ffn.name)  # a draft model has one
                vllm_config.compilation_config.static_forward_context[ffn.name] = ffn

        def process_weights_after_loading(self) -> None:
            """Give every FFN its sparse path; vLLM calls this when all weights are there."""
            inherited = getattr(super(), "process_weights_after_loading", None)
            if inherited is not None:
                inherited()
            for ffn in self.served_ffns:
                ffn.swap_in()

    Sparse.__name__ = Sparse.__qualname__ = stock.__name__
    return cast("type[nn.Module]", Sparse)


def sparse_family(config: PreTrainedConfig) -> Family | None:
    """Return the family of a model whose config names one of our activations, else None.

    Raises:
        UserError: It names one, but the family is not known or is not text alone.
    """
    text = config.get_text_config()
    family = FAMILIES.get(text.model_type)
    key = OWN_KEY if family is None or family.config_key is None else family.config_key
    name = getattr(text, key, None)
    if name not in SPARSE_ACTIVATIONS:
        return None
    if family is None:
        if name == "relu":
            return None  # vLLM knows it, or says that it does not
        raise UserError(
            f"The config of this '{text.model_type}' model names {name}, which prosparse can serve only "
            "in families it knows (prosparse/model/families.py)."
        )
    if text is not config:
        raise UserError(
            f"prosparse serves text models; this is a '{config.model_type}' with a text model inside: "
            "save that alone, then serve it."
        )
    return family


@contextlib.contextmanager
def dense_activation(config: PreTrainedConfig, family: Family) -> Iterator[None]:
    """Let a config name, inside the block, an activation that vLLM builds this family with."""
    key = family.config_key
    if key is None:
        yield
        return
    name = getattr(config, key)
    is_gated = family.gate is not None or family.fused
    setattr(config, key, _dense_name(key) if is_gated else "relu")
    try:
        yield
    finally:
        setattr(config, key, name)


def _dense_name(key: str) -> str:
    return "gelu_pytorch_tanh" if key == "hidden_activation" else "silu"  # Gemma has no SiLU
