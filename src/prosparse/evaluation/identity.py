# SPDX-License-Identifier: Apache-2.0
"""Which model it is, by what it computes with: weights, configuration, tokenizer."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch

from prosparse.data.fingerprint import tokenizer_hash

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Where it came from, not what it is.
_ORIGIN = ("_name_or_path", "transformers_version")


def model_hash(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return 64 hexadecimal digits that differ when any weight, setting or token does."""
    digest = hashlib.sha256()
    config = {key: value for key, value in model.config.to_dict().items() if key not in _ORIGIN}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(tokenizer_hash(tokenizer).encode())
    digest.update(str(tokenizer.chat_template).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous()
        if values.numel():
            digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_hash(folder: Path | None) -> str | None:
    """Return a hash of the files of a folder; None for none."""
    if folder is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
