# SPDX-License-Identifier: Apache-2.0
"""Where each model family of transformers keeps its feed-forward network (FFN), as one table.

A row says how to walk from the causal language model to the projections of a layer's FFN, which is
either gated, `down(act(gate(x)) * up(x))`, or plain, `down(act(up(x)))`. Only families that are
exactly that and nothing more have a row: no normalization, multiplier or dropout between
activation and `down` (bitnet, falcon_h1, biogpt), no mixture of experts, no activation that is a
bare function and cannot be replaced (lfm2), none whose config field sets more than the FFN's
activation (qwen3_5 and its linear attention). A model without a row is looked at by
`prosparse.model.structure`; a new row makes it known for good.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Family:
    """How to find the FFNs of one model family."""

    layers: str
    """Dotted path from the causal language model to the ModuleList of its decoder layers."""
    ffn: str
    """Dotted path from a layer to the module that owns the projections; "" is the layer itself."""
    gate: str | None
    """Attribute of the gate projection; None when the FFN is plain, or gate and up are `fused`."""
    up: str
    down: str
    activation: str
    """Attribute of the activation module, beside the projections."""
    config_key: str | None
    """Config field that names the activation function; None when the modeling code fixes it."""
    fused: bool = False
    """Whether `up` yields gate and up at once: its output's first half is gate, the second up."""


LLAMA = Family(
    layers="model.layers",
    ffn="mlp",
    gate="gate_proj",
    up="up_proj",
    down="down_proj",
    activation="act_fn",
    config_key="hidden_act",
)
GEMMA2 = replace(LLAMA, config_key="hidden_activation")
PHI3 = replace(LLAMA, gate=None, up="gate_up_proj", activation="activation_fn", fused=True)
NEMOTRON = replace(LLAMA, gate=None)
PHI = replace(LLAMA, gate=None, up="fc1", down="fc2", activation="activation_fn")
GPT2 = Family(
    layers="transformer.h",
    ffn="mlp",
    gate=None,
    up="c_fc",
    down="c_proj",
    activation="act",
    config_key="activation_function",
)
GPTJ = replace(GPT2, up="fc_in", down="fc_out")
GPT_NEOX = Family(
    layers="gpt_neox.layers",
    ffn="mlp",
    gate=None,
    up="dense_h_to_4h",
    down="dense_4h_to_h",
    activation="act",
    config_key="hidden_act",
)

FAMILIES: dict[str, Family] = {
    # Gated: down(act(gate(x)) * up(x)).
    "cohere": LLAMA,
    "cohere2": LLAMA,
    "cwm": LLAMA,
    "diffllama": LLAMA,
    "ernie4_5": LLAMA,
    "exaone4": LLAMA,
    "gemma": LLAMA,
    "gemma2": GEMMA2,
    "gemma3": replace(GEMMA2, layers="model.language_model.layers"),
    "gemma3_text": GEMMA2,
    "granite": LLAMA,
    "granite_swa": LLAMA,
    "helium": LLAMA,
    "hunyuan_v1_dense": LLAMA,
    "hyperclovax": LLAMA,
    "llama": LLAMA,
    "minicpm3": LLAMA,
    "ministral": LLAMA,
    "ministral3": LLAMA,
    "mistral": LLAMA,
    "olmo": LLAMA,
    "olmo2": LLAMA,
    "olmo3": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "seed_oss": LLAMA,
    "smollm3": LLAMA,
    "stablelm": LLAMA,
    "vaultgemma": GEMMA2,
    "youtu": LLAMA,
    # Gated, with gate and up in one matrix.
    "glm": PHI3,
    "glm4": PHI3,
    "phi3": PHI3,
    # Plain: down(act(up(x))).
    "apertus": NEMOTRON,
    "arcee": NEMOTRON,
    "bloom": replace(GPT_NEOX, layers="transformer.h", activation="gelu_impl", config_key=None),
    "codegen": GPTJ,
    "falcon": replace(GPT_NEOX, layers="transformer.h", config_key="activation"),
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neo": GPT2,
    "gpt_neox": GPT_NEOX,
    "gpt_neox_japanese": replace(GPT_NEOX, layers="gpt_neox_japanese.layers"),
    "gptj": GPTJ,
    "jais2": NEMOTRON,
    "mpt": replace(
        NEMOTRON, layers="transformer.blocks", ffn="ffn", activation="act", config_key=None
    ),
    "nanochat": PHI,
    "nemotron": NEMOTRON,
    "opt": replace(PHI, layers="model.decoder.layers", ffn="", config_key="activation_function"),
    "persimmon": replace(GPT_NEOX, layers="model.layers"),
    "phi": PHI,
    "starcoder2": replace(GPT2, layers="model.layers", config_key="hidden_act"),
}
