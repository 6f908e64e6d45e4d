# SPDX-License-Identifier: Apache-2.0
"""The entry point `vllm.general_plugins`: vLLM calls `register` in each of its processes.

vLLM's own model classes refuse a config with `hidden_act: fatrelu`, or with `relu` where a Llama has
SiLU. Each class of a family that we know gets a stand-in in vLLM's registry: asked for the class, it
returns a subclass, which reads the config first (`prosparse.serving.vllm.models`). What vLLM asks about
a class (is it multimodal, may it be split into stages) is asked of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# What vLLM takes where it has no class of its own: transformers' modeling code.
BACKEND = "TransformersForCausalLM"


@dataclass(frozen=True)
class SparseVersion:
    """Stands in for one entry of vLLM's registry."""

    stock: Any
    """The entry that was there."""

    def inspect_model_cls(self) -> Any:
        """Return what vLLM wants to know of the class."""
        return self.stock.inspect_model_cls()

    def load_model_cls(self) -> type[nn.Module]:
        """Return the class to build."""
        from prosparse.serving.vllm.models import sparse_version

        return sparse_version(self.stock.load_model_cls())


def register() -> None:
    """Teach vLLM our activations in every family we know; a second call does nothing."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from vllm import ModelRegistry

    from prosparse.model.families import FAMILIES

    known = ModelRegistry.models
    names = {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type) for model_type in FAMILIES}
    for name in names & known.keys() | {BACKEND}:
        if not isinstance(known[name], SparseVersion):
            known[name] = SparseVersion(known[name])
