# SPDX-License-Identifier: Apache-2.0
"""A tokenizer as GGUF has it: tokens, their kinds, merges or scores, special tokens.

Two kinds are known: byte-level BPE (`gpt2`: GPT-2, Llama 3, SmolLM), and BPE over characters with bytes to
fall back on (`llama`: Llama 2). The latter is SentencePiece's; engines take its merges as scores, a
merge that was learned earlier having the higher one.
"""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any, cast

from prosparse.errors import UserError
from prosparse.model.own_gguf import HF_TOKENIZER_KEY

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

LOG = logging.getLogger(__name__)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def add_vocabulary(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, num_tokens: int, *, whole: bool
) -> None:
    """Add a tokenizer to a file.

    Args:
        writer: Of the file.
        tokenizer: A fast tokenizer.
        num_tokens: Rows of the model's embedding; what the tokenizer lacks is filled up.
        whole: Add the tokenizer as Hugging Face has it, too.

    Raises:
        UserError: It is of no kind that engines of GGUF have.
    """
    if not tokenizer.is_fast:
        raise UserError("The tokenizer is not a fast one, and only those can be exported.")
    fast = cast("PreTrainedTokenizerFast", tokenizer)
    state = json.loads(fast.backend_tokenizer.to_str())
    kind = _kind(state)
    tokens, types = _tokens(tokenizer, state, num_tokens)
    merges = [m if isinstance(m, str) else " ".join(m) for m in state["model"]["merges"]]
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if kind == "gpt2":
        writer.add_tokenizer_pre(_pre_tokenizer(state))
        writer.add_token_merges(merges)
    else:
        writer.add_token_scores(_scores(tokens, merges))
    _add_special(writer, tokenizer)
    if whole:
        writer.add_string(HF_TOKENIZER_KEY, json.dumps(state, ensure_ascii=False))


def _kind(state: dict[str, Any]) -> str:
    model = state["model"]
    if model["type"] == "BPE":
        if _parts(state.get("pre_tokenizer"), "ByteLevel"):
            return "gpt2"
        if model.get("byte_fallback"):
            return "llama"
    raise UserError(
        f"The tokenizer is a {model['type']} of a kind that GGUF has no name for; BPE over bytes, and BPE "
        "with bytes to fall back on (Llama 2), can be exported."
    )


def _pre_tokenizer(state: dict[str, Any]) -> str:
    """Return what llama.cpp calls the way of cutting text into words."""
    pre = state["pre_tokenizer"]
    if any(part.get("individual_digits") for part in _parts(pre, "Digits")):
        return "smollm"
    patterns = [part["pattern"].get("Regex", "") for part in _parts(pre, "Split")]
    if not patterns:
        return "gpt-2"
    if any(r"\p{N}{1,3}" in pattern for pattern in patterns):
        return "llama-bpe"
    LOG.warning("The tokenizer cuts text into words in a way without a name; writing 'default'.")
    return "default"


def _parts(pre: dict[str, Any] | None, type: str) -> list[dict[str, Any]]:
    if pre is None:
        return []
    parts = pre.get("pretokenizers", [pre])
    return [part for part in parts if part["type"] == type]


def _tokens(
    tokenizer: PreTrainedTokenizerBase, state: dict[str, Any], num_tokens: int
) -> tuple[list[str], list[int]]:
    vocabulary = {index: token for token, index in tokenizer.get_vocab().items()}
    if vocabulary and max(vocabulary) >= num_tokens:
        raise UserError(
            f"The tokenizer has token {max(vocabulary)} and the model {num_tokens} embeddings: they do "
            "not belong together."
        )
    added = {token["id"]: token["special"] for token in state["added_tokens"]}
    unknown = state["model"].get("unk_token")
    tokens, types = [], []
    for index in range(num_tokens):
        token = vocabulary.get(index)
        tokens.append(f"[PAD{index}]" if token is None else token)
        if token is None:
            types.append(UNUSED)
        elif token == unknown:
            types.append(UNKNOWN)
        elif index in added:
            types.append(CONTROL if added[index] else USER_DEFINED)
        elif state["model"].get("byte_fallback") and BYTE_TOKEN.fullmatch(token):
            types.append(BYTE)
        else:
            types.append(NORMAL)
    return tokens, types


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    rank = {merge.replace(" ", ""): index for index, merge in reversed(list(enumerate(merges)))}
    return [-float(rank.get(token, len(merges))) for token in tokens]


def _add_special(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    for add, index in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if index is not None:
            add(cast("int", index))
    first = tokenizer("a")["input_ids"][:1]
    writer.add_add_bos_token(
        tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    )
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
