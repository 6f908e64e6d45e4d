# SPDX-License-Identifier: Apache-2.0
"""A tiny random model of every family that prosparse knows, made in milliseconds, never stored.

Use it in any test: `from tests.model.tiny import tiny_model`. d_ff is no multiple of d_model
wherever the family lets us choose, so that a transposed weight cannot pass unseen.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB_SIZE = 128
D_MODEL = 32
D_FF = 56

# The words that most families share ...
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": D_MODEL,
    "intermediate_size": D_FF,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT_ATTENTION: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
# ... and those that some have of their own.
OWN: dict[str, dict[str, Any]] = {
    "codegen": {"n_inner": D_FF, "rotary_dim": 4},
    "falcon": {"ffn_hidden_size": D_FF},
    "gemma3": {
        "text_config": COMMON,
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "mm_tokens_per_image": 4,
    },
    "gpt2": {"n_inner": D_FF},
    "gpt_bigcode": {"n_inner": D_FF},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"n_inner": D_FF, "rotary_dim": 4},
    "helium": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "minicpm3": LATENT_ATTENTION,
    "ministral": {"head_dim": 8},
    "opt": {"activation_function": "gelu", "ffn_dim": D_FF, "word_embed_proj_dim": D_MODEL},
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    # Loading a Youtu zeroes the embedding of its padding token.
    "youtu": {**LATENT_ATTENTION, "pad_token_id": None},
}


def tiny_model(model_type: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """Return a random model of a family, in float32 and eval mode.

    Args:
        model_type: A model type that transformers knows, as in `config.model_type`.
        seed: Seed of the weights.
        overrides: Config fields to change, e.g. `hidden_act="relu"`.
    """
    common = {} if "text_config" in OWN.get(model_type, {}) else COMMON
    fields = {**common, **OWN.get(model_type, {}), **overrides}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                # transformers starts at 0.02, which drowns every width-32 difference.
                parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1, generator=generator)
    return model.float().eval()


def tiny_tokens(num_tokens: int = 12, batch_size: int = 2, seed: int = 0) -> torch.Tensor:
    """Return random token ids of shape [batch_size, num_tokens], none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB_SIZE, (batch_size, num_tokens), generator=generator)
