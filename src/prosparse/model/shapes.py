# SPDX-License-Identifier: Apache-2.0
"""The model shapes that benchmarks and dry runs know by name: no file and no hub is needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import LlamaConfig

MAX_POSITIONS = 4096


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of an FFN, and of the model around it where it has a name."""

    name: str
    d_model: int
    d_ff: int
    num_layers: int = 0
    """0 for a bare FFN."""
    num_heads: int = 0
    num_kv_heads: int = 0
    vocab_size: int = 0
    has_tied_embeddings: bool = False


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("llama2-7b", 4096, 11008, 32, 32, 32, 32000),
        Shape("llama2-13b", 5120, 13824, 40, 40, 40, 32000),
        Shape("minicpm-1b", 1536, 3840, 52, 24, 8, 73440, has_tied_embeddings=True),
        Shape("smollm2-1.7b", 2048, 8192, 24, 32, 32, 49152, has_tied_embeddings=True),
        Shape("smollm2-135m", 576, 1536, 30, 9, 3, 49152, has_tied_embeddings=True),
    )
}


def parse_shapes(names: Sequence[str]) -> tuple[Shape, ...]:
    """Return the shapes of names such as `llama2-7b` or `4096x11008` (d_model x d_ff).

    Raises:
        UserError: A name is neither, or comes twice, or there is none.
    """
    if not names:
        raise UserError(f"No --shape given; choose from {', '.join(SHAPES)} or give DxF.")
    if len(set(names)) < len(names):
        raise UserError(f"--shape names one shape twice: {', '.join(names)}.")
    return tuple(_parse_shape(name) for name in names)


def _parse_shape(name: str) -> Shape:
    if name in SHAPES:
        return SHAPES[name]
    sizes = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", name)
    if sizes is None:
        raise UserError(
            f"--shape must be one of {', '.join(SHAPES)}, or d_model x d_ff such as 4096x11008; "
            f"found '{name}'."
        )
    return Shape(name, int(sizes[1]), int(sizes[2]))


def model_shape(name: str) -> Shape:
    """Return the shape of a whole model.

    Raises:
        UserError: The name is not one of `SHAPES`.
    """
    if name not in SHAPES:
        raise UserError(f"--shape must be one of {', '.join(SHAPES)}; found '{name}'.")
    return SHAPES[name]


def llama_config(shape: Shape, num_layers: int, hidden_act: str) -> LlamaConfig:
    """Return the configuration of a Llama of a shape; every named shape is one.

    Args:
        shape: One of `SHAPES`.
        num_layers: Of this model, >= 1.
        hidden_act: Name of its activation function.
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        vocab_size=shape.vocab_size,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=shape.has_tied_embeddings,
        hidden_act=hidden_act,
    )
