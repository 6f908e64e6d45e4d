# SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints as they are published: the published config's keys, tensor names and shapes.

Sizes are shrunk; every other key and value is that of the config named beside it. Nothing of transformers or
prosparse makes them or says what they compute: `by_hand` does, in plain PyTorch.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import byte_tokenizer

D_MODEL, D_FF, NUM_LAYERS, HEADS, KV_HEADS, VOCAB = 32, 48, 2, 4, 2, 257
HEAD = D_MODEL // HEADS
IDS = torch.arange(3, 19)[None]

SIZES: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "intermediate_size": D_FF,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": True,
}
# SparseLLM/prosparse-llama-2-7b
PROSPARSE_LLAMA2: dict[str, Any] = {
    **SIZES,
    "architectures": ["SparseLlamaForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_sparsellama.SparseLlamaConfig",
        "AutoModel": "modeling_sparsellama.SparseLlamaForCausalLM",
        "AutoModelForCausalLM": "modeling_sparsellama.SparseLlamaForCausalLM",
    },
    "hidden_act": "fatrelu",
    "hidden_act_param": 0.01,
    "max_length": 4096,
    "max_position_embeddings": 4096,
    "model_type": "sparsellama",
    "num_key_value_heads": HEADS,
    "pretraining_tp": 1,
    "rope_scaling": None,
    "transformers_version": "4.31.0.dev0",
}
# openbmb/MiniCPM-S-1B-sft
MINICPM_S: dict[str, Any] = {
    **{key: value for key, value in SIZES.items() if key != "tie_word_embeddings"},
    "architectures": ["MiniCPMForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_minicpm.MiniCPMConfig",
        "AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM",
    },
    "dim_model_base": 8,
    "hidden_act": "fatrelu",
    "hidden_act_param": 0.03,
    "max_position_embeddings": 4096,
    "model_type": "minicpm",
    "scale_depth": 1.4,
    "scale_emb": 12,
}
# SparseLLM/ReluLLaMA-7B
RELU_LLAMA: dict[str, Any] = {
    **SIZES,
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "relu",
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "rope_scaling": None,
}
# SakanaAI/SparseLM
SAKANA: dict[str, Any] = {
    **SIZES,
    "architectures": ["SparseLlamaForCausalLM"],
    "auto_map": {
        "AutoConfig": "sparse_models.SparseLlamaConfig",
        "AutoModelForCausalLM": "sparse_models.SparseLlamaForCausalLM",
    },
    "hidden_act": "silu",  # a leftover
    "intermediate_size": 40,
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "model_type": "llama_sparse_relu",
    "sparsity_gated_mlp": True,
    "sparsity_l1_coeff": 2e-5,
    "sparsity_l0_cutoff": -1,
    "sparsity_mlp_execution_logic": "training",
    "sparsity_new_intermediate_size": D_FF,
    "sparsity_tokens_until_dead": None,
    "sparsity_use_hybrid_kernel": False,
}
# PowerInfer/TurboSparse-Mistral-Instruct
TURBO_SPARSE: dict[str, Any] = {
    **SIZES,
    "architectures": ["BambooForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_bamboo.BambooConfig",
        "AutoModel": "modeling_bamboo.BambooForCausalLM",
        "AutoModelForCausalLM": "modeling_bamboo.BambooForCausalLM",
    },
    "hidden_act": "relu",
    "max_position_embeddings": 32768,
    "model_type": "bamboo",
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "transformers_version": "4.41.0",
}
# thrunlab's SparseMistral
CATS: dict[str, Any] = {
    **SIZES,
    "architectures": ["SparseMistralforCausalLM"],
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "model_type": "sparse_mistral",
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "thresholds": [0.2, 0.5],
    "use_relu": False,
    "use_sparse_model": True,
    "use_sparse_predictor": False,
    "use_sparse_regularization": False,
}


def tensors(
    *, gated: bool = True, tied: bool = False, kv_heads: int = KV_HEADS
) -> dict[str, Tensor]:
    """Return random weights under the names of Llama, large enough that gates are well away from 0."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    found = {"model.embed_tokens.weight": random(VOCAB, D_MODEL)}
    for layer in range(NUM_LAYERS):
        shapes = {
            "self_attn.q_proj": (D_MODEL, D_MODEL),
            "self_attn.k_proj": (kv_heads * HEAD, D_MODEL),
            "self_attn.v_proj": (kv_heads * HEAD, D_MODEL),
            "self_attn.o_proj": (D_MODEL, D_MODEL),
            "mlp.gate_proj": (D_FF, D_MODEL),
            "mlp.up_proj": (D_FF, D_MODEL),
            "mlp.down_proj": (D_MODEL, D_FF),
        }
        if not gated:
            del shapes["mlp.gate_proj"]
        for name, shape in shapes.items():
            found[f"model.layers.{layer}.{name}.weight"] = random(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{layer}.{name}.weight"] = 1 + random(D_MODEL)
    found["model.norm.weight"] = 1 + random(D_MODEL)
    if not tied:
        found["lm_head.weight"] = random(VOCAB, D_MODEL)
    return found


def write(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    """Write a checkpoint as it lies on the hub, with a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    byte_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def by_hand(
    config: dict[str, Any],
    weights: dict[str, Tensor],
    x1,
    ids: Tensor = IDS,
    seen: list[Tensor] | None = None,
) -> Tensor:
    """Return the logits [1, S, V] of ids [1, S].

    Args:
        config: As published.
        weights: The checkpoint's.
        x1: Returns the intermediate [S, F] of (layer, gate or None, up).
        ids: The tokens.
        seen: Gets what enters each layer's down projection, [S, F].
    """
    norm_eps = config["rms_norm_eps"]
    residual = 1.0
    if "scale_depth" in config:
        residual = config["scale_depth"] / math.sqrt(NUM_LAYERS)
    h = weights["model.embed_tokens.weight"][ids[0]] * config.get("scale_emb", 1)
    for layer in range(NUM_LAYERS):
        w = {k.removeprefix(f"model.layers.{layer}."): v for k, v in weights.items()}
        x = _norm(h, w["input_layernorm.weight"], norm_eps)
        h = h + residual * _attention(x, w, config.get("rope_theta", 10000.0))
        x = _norm(h, w["post_attention_layernorm.weight"], norm_eps)
        cut = functools.partial(_cut, config.get("ffn_input_thresholds"), layer)
        gate = None
        if "mlp.gate_proj.weight" in w:
            gate = cut("gate", x) @ w["mlp.gate_proj.weight"].T
        entering = cut("down", x1(layer, gate, cut("up", x) @ w["mlp.up_proj.weight"].T))
        if seen is not None:
            seen.append(entering)
        h = h + residual * entering @ w["mlp.down_proj.weight"].T
    h = _norm(h, weights["model.norm.weight"], norm_eps)
    if "dim_model_base" in config:
        h = h / (D_MODEL / config["dim_model_base"])
    return (h @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).T)[None]


def _cut(thresholds: dict[str, list[float]] | None, layer: int, name: str, x: Tensor) -> Tensor:
    """Return what TEAL lets into a projection."""
    return x if thresholds is None else torch.where(x.abs() > thresholds[name][layer], x, 0)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def _attention(x: Tensor, w: dict[str, Tensor], theta: float) -> Tensor:
    length = len(x)
    q, k, v = (
        (x @ w[f"self_attn.{name}_proj.weight"].T).view(length, -1, HEAD).transpose(0, 1)
        for name in "qkv"
    )
    angles = torch.outer(
        torch.arange(length).float(), theta ** (-torch.arange(0, HEAD, 2).float() / HEAD)
    )
    q, k = _rotated(q, angles), _rotated(k, angles)
    k, v = (each.repeat_interleave(HEADS // len(each), dim=0) for each in (k, v))
    scores = q @ k.transpose(1, 2) / math.sqrt(HEAD)
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    mixed = (F.softmax(scores, dim=-1) @ v).transpose(0, 1).reshape(length, -1)
    return mixed @ w["self_attn.o_proj.weight"].T


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
