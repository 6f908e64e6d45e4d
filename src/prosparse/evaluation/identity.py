# SPDX-License-Identifier: Apache-2.0
"""Which model it is, by what it computes with: weights, configuration, tokenizer."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch

from prosparse.data.fingerprint import tokenizer_hash

if TYPE_CHECKING:
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
