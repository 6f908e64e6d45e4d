# SPDX-License-Identifier: Apache-2.0
"""Load a GGUF of our own architecture, `prosparse-llama`: a Llama whose activation is not SiLU.

It is laid out as any GGUF of a Llama; its name keeps engines away whose graph would compute SiLU, and
transformers with them, so it is read here. The tokenizer is in the file as Hugging Face has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from prosparse.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

HF_TOKENIZER_KEY = "tokenizer.huggingface.json"
"""A key of the GGUF specification."""
TIED_KEY = "prosparse.tied_head"
# Name in the file -> name in transformers; of a layer, behind `blk.N.` and `model.layers.N.`.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def own_config(metadata: dict[str, Any]) -> LlamaConfig:
    """Return the configuration that a file's keys say, its activation left at the default."""
    from transformers import LlamaConfig

    architecture = metadata["general.architecture"]

    def size(key: str) -> Any:
        name = f"{architecture}.{key}"
        if name not in metadata:
            raise UserError(f"This GGUF of '{architecture}' has no key {name}; export it again.")
        return metadata[name]

    return LlamaConfig(
        vocab_size=size("vocab_size"),
        hidden_size=size("embedding_length"),
        intermediate_size=size("feed_forward_length"),
        num_hidden_layers=size("block_count"),
        num_attention_heads=size("attention.head_count"),
        num_key_value_heads=size("attention.head_count_kv"),
        max_position_embeddings=size("context_length"),
        rms_norm_eps=size("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": size("rope.freq_base")},
        tie_word_embeddings=metadata.get(TIED_KEY, False),
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=metadata.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=metadata.get("tokenizer.ggml.padding_token_id"),
    )


def load_own(path: Path, metadata: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of a file, its weights in `dtype`.

    Raises:
        UserError: A key or a tensor is missing, or one is there that does not belong.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from transformers import LlamaForCausalLM

    config = own_config(metadata)
    num_heads = config.num_attention_heads
    heads = {"attn_q": num_heads, "attn_k": config.num_key_value_heads or num_heads}
    weights = {}
    for tensor in GGUFReader(path).tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).to(dtype)
        part = tensor.name.split(".")[-2]
        if part in heads:
            values = part_halves(values, heads[part])
        weights[_own_name(tensor.name)] = values
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to(dtype)  # type: ignore[arg-type]
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if missing or unexpected:
        found = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which no Llama has"
        raise UserError(f"{path} {found}: export it again.")
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are in no file
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def own_tokenizer(metadata: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a file.

    Raises:
        UserError: There is none.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if HF_TOKENIZER_KEY not in metadata:
        raise UserError(f"This GGUF has no key {HF_TOKENIZER_KEY}; export it again.")
    backend = Tokenizer.from_str(metadata[HF_TOKENIZER_KEY])
    special = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            special[f"{name}_token"] = backend.id_to_token(index)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = metadata.get("tokenizer.chat_template")
    return tokenizer


def interleave_halves(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return the rows [heads * head_dim, D] of a query or key projection in GGUF's order.

    Engines of GGUF rotate neighboring pairs of a head's entries, transformers its two halves.
    """
    rows, columns = weight.shape
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def part_halves(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Undo `interleave_halves`."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _own_name(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in LAYER_NAMES:
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    return f"{NAMES.get(parts[0], name)}.{parts[-1]}"
