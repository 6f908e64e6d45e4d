# SPDX-License-Identifier: Apache-2.0
"""llama.cpp in the race: a GGUF file of a Llama's weights, and its greedy decode without Python around it.

Of llama-cpp-python only the bare C functions are used: its own `Llama` class copies logits and builds
samplers in Python for every token, which is not llama.cpp's time.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from prosparse.benchmarking.decode_runs import Decode, Decoded, TokenClock

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

NO_FFN = 32  # width of the FFNs of a file that times everything else: the least that Q4_0 can hold


def why_not() -> str | None:
    """Return why llama.cpp takes no part, as one sentence; None when it does."""
    try:
        import gguf  # noqa: F401
        import llama_cpp  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return (
            f"llama.cpp takes no part: {error}. pip install gguf llama-cpp-python, which compiles it, "
            "or put the folder where it is installed on PYTHONPATH."
        )
    return None


def about() -> str:
    """Return which llama.cpp takes part, and which instructions it was built to use, as one sentence."""
    import llama_cpp as c

    _start()
    flags = re.sub(r"\s+", " ", c.llama_print_system_info().decode()).strip(" |")
    return f"llama.cpp of llama-cpp-python {c.__version__}; it says of itself: {flags}."


def write_gguf(model: LlamaForCausalLM, path: Path, kind: str, *, with_ffns: bool = True) -> float:
    """Write a Llama as a GGUF file without a tokenizer; return the MB of it that a token reads.

    Its graph in llama.cpp has SiLU, whatever activation the model has: the text is another, and
    nonsense for a ReLU model; the bytes and operations of a token are the same.

    Args:
        model: Plain weights in any float dtype.
        path: To write.
        kind: F16, BF16, Q8_0 or Q4_0, for all matrices; vectors are F32.
        with_ffns: False keeps the first 32 neurons of every FFN only.
    """
    import gguf

    config = model.config
    d_ff = config.intermediate_size if with_ffns else NO_FFN
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(d_ff)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    wanted = gguf.GGMLQuantizationType[kind]
    num_bytes = 0
    for name, tensor in _tensors(model, d_ff):
        data = tensor.detach().float().contiguous().numpy()
        if data.ndim == 1:
            stored, dtype = data, gguf.GGMLQuantizationType.F32
        else:
            stored, dtype = gguf.quants.quantize(data, wanted), wanted
        writer.add_tensor(name, stored, raw_dtype=dtype)
        is_table = name == "token_embd.weight" and not config.tie_word_embeddings
        num_bytes += 0 if is_table else stored.nbytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return 1e-6 * num_bytes


@contextlib.contextmanager
def llama_decode(
    path: Path, max_length: int, num_threads: int, repacked: bool = True
) -> Iterator[Decode]:
    """Open a file; yield a greedy decode of it, on the CPU.

    Args:
        path: A GGUF file.
        max_length: Room for prompt and new tokens together.
        num_threads: Of llama.cpp.
        repacked: Let llama.cpp lay quantized weights out anew for this CPU; see `can_repack`.
    """
    import llama_cpp as c

    _start()
    loading = c.llama_model_default_params()
    loading.n_gpu_layers = 0
    loading.use_extra_bufts = repacked
    model = c.llama_model_load_from_file(str(path).encode(), loading)
    if not model:
        raise RuntimeError(f"llama.cpp does not load {path.name}")
    running = c.llama_context_default_params()
    running.n_ctx = running.n_batch = running.n_ubatch = max_length
    running.n_threads = running.n_threads_batch = num_threads
    context = c.llama_init_from_model(model, running)
    try:
        yield _decode(c, model, context)
    finally:
        c.llama_free(context)
        c.llama_model_free(model)


def can_repack(path: Path, num_threads: int) -> bool:
    """Return whether llama.cpp runs a file with its weights repacked: tried in another process.

    Where a virtual machine announces AMX and does not grant it, that ends with a segmentation fault.
    """
    trial = multiprocessing.get_context("spawn").Process(target=_try, args=(path, num_threads))
    trial.start()
    trial.join()
    return trial.exitcode == 0


def _try(path: Path, num_threads: int) -> None:
    with llama_decode(path, 8, num_threads) as decode:
        decode(torch.tensor([[1, 2, 3]]), 3)


@functools.cache
def _start() -> object:
    """Start llama.cpp and silence it; what is returned must live as long as the process."""
    import llama_cpp as c

    silent = c.llama_log_callback(lambda level, text, data: None)
    c.llama_log_set(silent, ctypes.c_void_p())
    c.llama_backend_init()
    return silent


def _decode(c: Any, model: Any, context: Any) -> Decode:
    vocab_size = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))

    def likeliest(ids: list[int]) -> int:
        tokens = (c.llama_token * len(ids))(*ids)
        if c.llama_decode(context, c.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError("llama_decode failed")
        logits = c.llama_get_logits_ith(context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(vocab_size,)).argmax())

    def decode(prompt: Tensor, num_tokens: int) -> Decoded:
        c.llama_memory_clear(c.llama_get_memory(context), True)
        clock = TokenClock(torch.device("cpu"))
        tokens = [likeliest(prompt[0].tolist())]
        clock.tick()
        while len(tokens) < num_tokens:
            tokens.append(likeliest(tokens[-1:]))
            clock.tick()
        return Decoded(tokens, clock.steps_ms())

    return decode


def _tensors(model: LlamaForCausalLM, d_ff: int) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors by llama.cpp's names; it has the halves of rotated heads interleaved."""
    heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
    yield "token_embd.weight", model.model.embed_tokens.weight
    yield "output_norm.weight", model.model.norm.weight
    if not model.config.tie_word_embeddings:
        yield "output.weight", model.lm_head.weight
    for index, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        parts: dict[str, Tensor] = {
            "attn_norm": layer.input_layernorm.weight,
            "attn_q": _interleaved(attention.q_proj.weight, heads),
            "attn_k": _interleaved(attention.k_proj.weight, kv_heads),
            "attn_v": attention.v_proj.weight,
            "attn_output": attention.o_proj.weight,
            "ffn_norm": layer.post_attention_layernorm.weight,
            "ffn_gate": mlp.gate_proj.weight[:d_ff],
            "ffn_up": mlp.up_proj.weight[:d_ff],
            "ffn_down": mlp.down_proj.weight[:, :d_ff],
        }
        for name, tensor in parts.items():
            yield f"blk.{index}.{name}.weight", tensor


def _interleaved(weight: Tensor, num_heads: int) -> Tensor:
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)
