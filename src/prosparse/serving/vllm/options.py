# SPDX-License-Identifier: Apache-2.0
"""What vLLM is told for us, with `--additional-config '{"prosparse_max_tokens": 4}'`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prosparse.errors import UserError
from prosparse.kernels.ops import MAX_TOKENS
from prosparse.runtime.accelerate import DEFAULT_MAX_TOKENS

MAX_TOKENS_KEY = "prosparse_max_tokens"
PACKED_KEY = "prosparse_packed_copy"


@dataclass(frozen=True)
class Options:
    """How FFNs are served."""

    max_tokens: int = DEFAULT_MAX_TOKENS
    """Steps of up to so many tokens go the sparse way; 0: none does."""
    is_packed: bool = False
    """On a CPU, hold vLLM's packed copy of the FFNs' weights as well, for longer steps: as fast as without us,
    for the memory of the FFNs once more."""


def read_options(additional_config: Any) -> Options:
    """Return the options in vLLM's `additional_config`.

    Raises:
        UserError: One is out of range.
    """
    given = additional_config if isinstance(additional_config, dict) else {}
    max_tokens = given.get(MAX_TOKENS_KEY, DEFAULT_MAX_TOKENS)
    is_packed = given.get(PACKED_KEY, False)
    if type(max_tokens) is not int or not 0 <= max_tokens <= MAX_TOKENS:
        raise UserError(f"{MAX_TOKENS_KEY} must be from 0 to {MAX_TOKENS}; found {max_tokens!r}.")
    if type(is_packed) is not bool:
        raise UserError(f"{PACKED_KEY} must be true or false; found {is_packed!r}.")
    return Options(max_tokens, is_packed)
