# SPDX-License-Identifier: Apache-2.0
"""Plain GGUF, for llama.cpp and what is built on it.

No key of GGUF says which activation function a model has: the graph of its architecture does, and that
of `llama` computes SiLU. A ReLU llama under that name would run everywhere, wrongly, without a word. So
only what the graph computes gets the name; any other can be written under an architecture of our own,
which other engines refuse by its name, and `prosparse.load` reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.errors import UserError
from prosparse.exporting.llama import add_sizes, check_llama, llama_tensors
from prosparse.exporting.tensors import TensorType, new_writer, write_gguf
from prosparse.exporting.vocabulary import add_vocabulary
from prosparse.model.gguf import ACTIVATION_KEY, OWN_LLAMA, PARAM_KEY
from prosparse.model.own_gguf import TIED_KEY
from prosparse.model.relufy import activation_of

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GRAPH_ACTIVATION = {"llama": "silu"}
"""What llama.cpp's graph of an architecture computes."""


def architecture_for(model: PreTrainedModel, only_prosparse: bool) -> str:
    """Return the architecture that a file of this model may name.

    Raises:
        UserError: llama.cpp would run it with another activation function.
    """
    name = activation_of(model).name
    if name == GRAPH_ACTIVATION["llama"]:
        return "llama"
    if not only_prosparse:
        raise UserError(
            f"llama.cpp's graph of 'llama' computes SiLU, and this model's activation is {name}: the "
            "file would load there and write nonsense. PowerInfer runs ReLU (--to powerinfer); "
            "--only-prosparse writes a GGUF under an architecture name that only prosparse knows."
        )
    return OWN_LLAMA


def write_plain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    name: str,
    type: TensorType,
    only_prosparse: bool = False,
) -> None:
    """Write a model as plain GGUF.

    Args:
        model: A Llama.
        tokenizer: Its tokenizer.
        path: The file.
        name: The model's name.
        type: Of the FFN's matrices.
        only_prosparse: Take our own architecture name where the activation is not llama.cpp's.

    Raises:
        UserError: llama.cpp cannot express the model.
    """
    config = check_llama(model)
    architecture = architecture_for(model, only_prosparse)
    tensors = llama_tensors(model, type, keep_head=False)
    writer = new_writer(path, architecture)
    add_sizes(writer, config, name, type)
    add_vocabulary(writer, tokenizer, config.vocab_size, whole=architecture == OWN_LLAMA)
    if architecture == OWN_LLAMA:
        writer.add_bool(TIED_KEY, config.tie_word_embeddings)
    activation = activation_of(model)
    writer.add_string(ACTIVATION_KEY, activation.name)
    if isinstance(activation.param, tuple):
        writer.add_array(PARAM_KEY, list(activation.param))
    elif activation.param is not None:
        writer.add_float32(PARAM_KEY, activation.param)
    write_gguf(writer, tensors)
