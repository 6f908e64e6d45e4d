# SPDX-License-Identifier: Apache-2.0
"""What a token store was made from, so that it is used again for the same and never for anything else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from prosparse.data.sources import Source, local_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STORE_VERSION = 1


def fingerprint(
    source: Source,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    separator: int,
    max_tokens: int | None,
    answers: bool,
) -> dict[str, Any]:
    """Return everything that decides what a store holds, as JSON data; see `tokens.tokenize`.

    Raises:
        UserError: The source's files are not there.
    """
    is_chat = source.messages_field is not None
    files = local_files(source, name) or []
    stats = [(str(file), file.stat()) for file in files]
    return {
        "version": STORE_VERSION,
        # Only the fields of Source: a component's weight changes no token.
        "source": {field.name: getattr(source, field.name) for field in fields(Source)},
        "files": [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats],
        "tokenizer": tokenizer_hash(tokenizer),
        "separator": separator,
        "max_tokens": max_tokens,
        "answers": answers,
        "chat_template": tokenizer.chat_template if is_chat else None,
    }


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of everything that decides which tokens a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        described: Any = [type(tokenizer).__name__, tokenizer.get_vocab()]
    else:
        described = json.loads(backend.to_str())
        # Left over from the last call of the tokenizer; our own calls set them again.
        del described["truncation"], described["padding"]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
