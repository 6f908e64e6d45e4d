# SPDX-License-Identifier: Apache-2.0
"""Load a GGUF file as a plain, trainable transformers model.

Three things need care. transformers keeps GGUF blocks packed unless told otherwise, and packed
weights can be neither trained nor saved. A GGUF names no activation function: what loads is the
family's default unless the file carries our own key. And the tokenizer converter ignores
`tokenizer.ggml.pre`, the file's name for its pre-tokenizer.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from prosparse.errors import UserError
from prosparse.model.checkpoint import as_user_error
from prosparse.model.whole import STRICTLY, refuse_incomplete

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

# Keys of ours, written beside a GGUF's own metadata so that a sparse model stays sparse.
ACTIVATION_KEY = "prosparse.hidden_act"
PARAM_KEY = "prosparse.hidden_act_param"
# The architecture of a Llama whose activation is not the one that engines take a `llama` to have.
OWN_LLAMA = "prosparse-llama"
ARCHITECTURE_KEY = "general.architecture"


def load_gguf(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of a GGUF file with every weight unpacked to `dtype`.

    Raises:
        UserError: The file does not exist, is not a whole GGUF, or its architecture is unknown.
    """
    metadata = read_metadata(path)
    if metadata.get(ARCHITECTURE_KEY) == OWN_LLAMA:
        from prosparse.model.own_gguf import load_own

        model = load_own(path, metadata, dtype)
    else:
        model = _load_stock(path, dtype)
    _put_activation(model, path, metadata)
    return model


def _load_stock(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, GgufConfig

    with as_user_error(f"{path} cannot be loaded"):
        model, info = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
            **STRICTLY,
        )
    refuse_incomplete(info, str(path))
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the weights are plain now
    return model


def _put_activation(model: PreTrainedModel, path: Path, metadata: dict[str, Any]) -> None:
    """Give a model the activation that its file names."""
    from prosparse.model.activation import NUMBERS, SPARSE_ACTIVATIONS
    from prosparse.model.relufy import activation_of, relufy_in_place
    from prosparse.records.sparsity import Activation

    named, param = metadata.get(ACTIVATION_KEY), metadata.get(PARAM_KEY)
    default = activation_of(model).name
    if named is None:
        logger.warning(
            "%s does not name its activation function (no GGUF does); taking the default of its "
            "architecture, %s.",
            path.name,
            default,
        )
    elif named in SPARSE_ACTIVATIONS:
        if named in NUMBERS and not isinstance(param, int | float | list):
            raise UserError(f"{path} has {ACTIVATION_KEY} {named}, but its {PARAM_KEY} is {param}.")
        if isinstance(param, list):  # one for each layer
            param = tuple(param)
        relufy_in_place(model, Activation(named, param))
    elif named != default:
        raise UserError(f"{path} has {ACTIVATION_KEY} {named}, which prosparse does not know.")


def load_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a GGUF file, with the pre-tokenizer that the file names.

    Raises:
        UserError: The file does not exist, is not a whole GGUF, or has no usable tokenizer.
    """
    from transformers import AutoTokenizer

    metadata = read_metadata(path)
    if metadata.get(ARCHITECTURE_KEY) == OWN_LLAMA:
        from prosparse.model.own_gguf import own_tokenizer

        return own_tokenizer(metadata)
    pre = metadata.get("tokenizer.ggml.pre")
    with as_user_error(f"{path} has no usable tokenizer"):
        tokenizer = cast(
            "PreTrainedTokenizerFast",
            AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name),
        )
    if pre == "smollm":
        from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

        # As published with SmolLM: single digits, then bytes; the converter makes bytes only.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )
    return tokenizer


@lru_cache(maxsize=4)
def read_metadata(path: Path) -> dict[str, Any]:
    """Return the scalars of a GGUF file and its activation's numbers, after checking that it is whole.

    Raises:
        UserError: It does not exist, is not a GGUF, or ends before its last tensor does.
    """
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError("Reading GGUF files needs: pip install 'prosparse[gguf]'") from None
    if not path.is_file():
        raise UserError(f"No GGUF file at {path}: the path does not exist.")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"{path} is not a GGUF file: it does not begin with 'GGUF'.")
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        # The reader maps every tensor, so a file that ends early fails here.
        raise UserError(
            f"{path} is not a whole GGUF file ({' '.join(str(error).split())[:120]}): it was cut "
            "short or damaged; get it again."
        ) from None
    return {
        name: field.contents()
        for name, field in reader.fields.items()
        if name == PARAM_KEY or (len(field.data) == 1 and "tokens" not in name)
    }
