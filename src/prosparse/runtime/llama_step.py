# SPDX-License-Identifier: Apache-2.0
"""A Llama's whole decode step in one call of the CPU library.

A token of a small model is hundreds of operators of some microseconds each; handing them out one by one,
from Python or from compiled code, takes longer than they do. Here C++ goes through all layers
(`kernels/cpu/csrc/decode.h`), with the operators of the sparse FFN and of the dense projections, and
rounds where transformers rounds. Keys and values stand in the static cache that the prompt's pass filled.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from prosparse.kernels.backend import choose_backend
from prosparse.kernels.cpu.library import Decode, Job, Layer, library
from prosparse.kernels.cpu.operators import KINDS, ffn_jobs, matrix, projection_jobs
from prosparse.model.quantized import QuantizedEmbedding, QuantizedLinear, TiedHead
from prosparse.runtime import few_tokens
from prosparse.runtime.sparse_ffn import PATH, SparsePath, is_swapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache, StaticLayer

MOST_HEAD_DIM = 256


def why_no_llama_step(model: PreTrainedModel) -> str | None:
    """Return why a model's decode step cannot be one call, as one sentence; None when it can."""
    if type(model) is not LlamaForCausalLM:
        return "Only a Llama's step is one call."
    if model.device.type != "cpu" or choose_backend(model.device) != "cpu":
        return "The step in one call runs on the compiled kernels for CPUs."
    paths = [_path(layer) for layer in model.model.layers]
    if not all(type(path) is SparsePath and not path.is_screened for path in paths):
        return "Its FFNs are not accelerated, or go by predictors or a screen."
    if torch.is_autocast_enabled("cpu") or any(map(_is_watched, model.modules())):
        return "Autocast, a hook or a replaced forward wants to see its operators one by one."
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if len(dtypes) > 1 or not dtypes <= KINDS.keys():
        return f"Its weights are of several or other dtypes: {', '.join(map(str, dtypes))}."
    if _head_dim(model) % 2 or _head_dim(model) > MOST_HEAD_DIM:
        return f"Its heads are {_head_dim(model)} wide."
    embedding = type(model.model.embed_tokens)
    if embedding not in (nn.Embedding, QuantizedEmbedding) or None in _all_jobs(model):
        return "Its projections are of other kinds, or their groups no whole blocks."
    return None


class LlamaStep:
    """One step of an accelerated Llama, for one sequence; `why_no_llama_step` must be None.

    It holds addresses: of the model's weights as they are now, and of the cache.

    Args:
        model: The Llama.
        cache: Static; it holds keys and values of each layer, [1, KV heads, max_length, head_dim].
        max_length: Of the sequence.
    """

    def __init__(self, model: PreTrainedModel, cache: Cache, max_length: int) -> None:
        llama = cast("LlamaForCausalLM", model)
        config, body = llama.config, llama.model
        self.logits = torch.empty(1, config.vocab_size, dtype=llama.dtype)
        positions = torch.arange(max_length)[None]
        self._angles = body.rotary_emb(self.logits, positions)  # [1, max_length, head_dim] each
        cosines, sines = self._angles
        pasts = cast("list[StaticLayer]", cache.layers)
        head, *rest = (cast("list[Job]", found) for found in _all_jobs(llama))
        layers = [
            Layer(
                layer.input_layernorm.weight.data_ptr(),
                layer.post_attention_layernorm.weight.data_ptr(),
                *attention,
                *ffn,
                cast("Tensor", past.keys).data_ptr(),
                cast("Tensor", past.values).data_ptr(),
            )
            for layer, attention, ffn, past in zip(
                body.layers, rest[::2], rest[1::2], pasts, strict=True
            )
        ]
        self._layers = (Layer * len(layers))(*layers)
        self._decode = Decode(
            layers=self._layers,
            num_layers=len(layers),
            d_model=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=_head_dim(llama),
            max_length=max_length,
            kind=KINDS[llama.dtype],
            epsilon=config.rms_norm_eps,
            scaling=body.layers[0].self_attn.scaling,
            table=matrix(*_rows(body.embed_tokens)),
            cosines=cosines.data_ptr(),
            sines=sines.data_ptr(),
            norm=body.norm.weight.data_ptr(),
            head=head[0],
            logits=self.logits.data_ptr(),
        )

    def __call__(self, token: int, position: int) -> int:
        """Read a token at a position, and return the likeliest next one; `logits` [1, V] holds them all."""
        decode = self._decode
        decode.token, decode.position = token, position
        decode.num_threads = torch.get_num_threads()
        if library().prosparse_decode(ctypes.byref(decode)):
            raise MemoryError("The CPU kernels found no memory for a token.")
        return decode.likeliest


def _all_jobs(llama: LlamaForCausalLM) -> list[list[Job] | None]:
    """Return the head's, then of each layer attention's (query, key, value, output) and the FFN's."""
    config = llama.config
    x = torch.empty(1, config.hidden_size, dtype=llama.dtype)
    attended = torch.empty(1, config.num_attention_heads * _head_dim(llama), dtype=llama.dtype)
    found = [_projection_jobs(x, [llama.lm_head])]
    for layer in llama.model.layers:
        attention = layer.self_attn
        inner = _projection_jobs(x, [attention.q_proj, attention.k_proj, attention.v_proj])
        outer = _projection_jobs(attended, [attention.o_proj])
        found.append(None if inner is None or outer is None else inner + outer)
        found.append(ffn_jobs(x, cast("SparsePath", _path(layer)).weights()))
    return found


def _projection_jobs(x: Tensor, modules: Sequence[nn.Module]) -> list[Job] | None:
    if not all(type(module) in few_tokens.SECOND_WAYS.values() for module in modules):
        return None
    weights, scales = zip(*map(_rows, modules), strict=True)
    if not all(weight.is_contiguous() for weight in weights):
        return None
    biases = [cast("Tensor | None", module.bias) for module in modules]
    return projection_jobs(x, weights, scales, biases)


def _rows(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return the matrix of a projection or embedding, and its scales if it is in few bits."""
    if isinstance(module, QuantizedLinear | QuantizedEmbedding | TiedHead):
        return module.values, module.scales
    return cast("Tensor", module.weight), None


def _path(layer: nn.Module) -> SparsePath | None:
    ffn = cast("nn.Module", layer.mlp)
    return getattr(ffn, PATH) if is_swapped(ffn) else None


def _is_watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _head_dim(llama: PreTrainedModel) -> int:
    return cast("LlamaForCausalLM", llama).model.layers[0].self_attn.head_dim
