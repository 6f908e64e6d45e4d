# SPDX-License-Identifier: Apache-2.0
"""A Llama as GGUF has it: its sizes as keys, its weights under their names there.

The names, and the order of the rows of query and key, are those of `prosparse.model.own_gguf`, which reads
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from prosparse.errors import UserError
from prosparse.exporting.tensors import NamedTensor, TensorType, check_rows
from prosparse.model.input_thresholds import KEY as INPUT_THRESHOLDS
from prosparse.model.own_gguf import LAYER_NAMES, NAMES, interleave_halves

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from torch import Tensor, nn
    from transformers import LlamaConfig, PreTrainedModel

FFN_NAMES = ("ffn_gate", "ffn_up", "ffn_down")
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2}
"""`general.file_type`: what most tensors are."""


def check_llama(model: PreTrainedModel) -> LlamaConfig:
    """Return the configuration of a model that GGUF's `llama` graph can express but for its activation.

    Raises:
        UserError: It is of another family or has something that the graph has not.
    """
    config = model.config
    if config.model_type != "llama":
        raise UserError(
            f"The exports know models of type 'llama'; this one is '{config.model_type}'. "
            "ProSparse-LLaMA2, ReluLLaMA and SmolLM2 are llamas."
        )
    config = cast("LlamaConfig", config)
    has_bias = any(name.endswith(".bias") for name, _ in model.named_parameters())
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    odd = {
        "biases": has_bias,
        f"scaled rotary embeddings ('{rope}')": rope != "default",
        "inputs of projections that are cut (TEAL)": hasattr(config, INPUT_THRESHOLDS),
        f"heads of {head_dim} entries": head_dim * config.num_attention_heads != config.hidden_size,
    }
    found = [name for name, is_there in odd.items() if is_there]
    if found:
        raise UserError(f"This llama has {found[0]}, which the exports do not know.")
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise UserError("The model has no weights here (device 'meta'); load it whole.")
    return config


def add_sizes(writer: GGUFWriter, config: LlamaConfig, name: str, type: TensorType) -> None:
    """Add a model's sizes to a file."""
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[type])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads or config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base((config.rope_parameters or {}).get("rope_theta") or 10000.0)
    writer.add_vocab_size(config.vocab_size)


def llama_tensors(
    model: PreTrainedModel, type: TensorType, *, keep_head: bool
) -> list[NamedTensor]:
    """Return the tensors of a Llama, in the order of a file.

    Args:
        model: Passed `check_llama`.
        type: Of the FFN's matrices; all others are f16 unless it is f32, and norms are f32.
        keep_head: Write the output head even where it is the input embedding, as old engines want.
    """
    config = check_llama(model)
    for width in (config.hidden_size, config.intermediate_size):
        check_rows(width, type)
    wide: TensorType = "f32" if type == "f32" else "f16"
    has_head = keep_head or not config.tie_word_embeddings
    tensors = [
        _matrix(model, name, own, "f32" if name.endswith("norm") else wide)
        for name, own in NAMES.items()
        if has_head or name != "output"
    ]
    num_heads = config.num_attention_heads
    heads = {"attn_q": num_heads, "attn_k": config.num_key_value_heads or num_heads}
    for layer in range(config.num_hidden_layers):
        for name, own in LAYER_NAMES.items():
            kind = "f32" if name.endswith("norm") else type if name in FFN_NAMES else wide
            path = f"model.layers.{layer}.{own}"
            tensors.append(_matrix(model, f"blk.{layer}.{name}", path, kind, heads.get(name)))
    return tensors


def _matrix(
    model: PreTrainedModel, name: str, path: str, type: TensorType, num_heads: int | None = None
) -> NamedTensor:
    weight = cast("Tensor", cast("nn.Module", model.get_submodule(path)).weight)
    make: Callable[[], Tensor] = lambda: weight  # noqa: E731 - one of two
    if num_heads is not None:
        make = lambda: interleave_halves(weight.detach(), num_heads)  # noqa: E731
    return NamedTensor(f"{name}.weight", tuple(weight.shape), type, make)
