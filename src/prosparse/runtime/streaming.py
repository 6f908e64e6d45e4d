# SPDX-License-Identifier: Apache-2.0
"""What happens to tokens as they come: text for the reader, and how fast they came."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase, TextStreamer

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Pace:
    """How many tokens were generated, and how fast once the first had come."""

    num_tokens: int
    """All new tokens."""
    num_timed: int
    """Those after the first arrival, whose time holds the prompt, compiling and loading."""
    seconds: float
    """From the first arrival to the last."""

    def __add__(self, other: Pace) -> Pace:
        return Pace(
            self.num_tokens + other.num_tokens,
            self.num_timed + other.num_timed,
            self.seconds + other.seconds,
        )

    def __str__(self) -> str:
        tokens = f"{self.num_tokens} token{'' if self.num_tokens == 1 else 's'}"
        return tokens if not self.num_timed else f"{tokens}, {self.num_timed / self.seconds:.1f}/s"


class CallbackStreamer(TextStreamer):
    """Hands each finished piece of text to a function instead of printing it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text
        self._arrivals: list[tuple[float, int]] = []

    def put(self, value: Any) -> None:
        """Take the prompt, then new tokens, one or several at a time."""
        if not self.next_tokens_are_prompt:
            self._arrivals.append((time.perf_counter(), value.numel()))
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass a piece on."""
        self._on_text(text)

    def pace(self) -> Pace:
        """Return how fast the tokens came so far."""
        counts = [count for _, count in self._arrivals]
        seconds = self._arrivals[-1][0] - self._arrivals[0][0] if self._arrivals else 0.0
        return Pace(sum(counts), sum(counts[1:]), seconds)
