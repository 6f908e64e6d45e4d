# SPDX-License-Identifier: Apache-2.0
"""Decode greedily, one token at a time, and note when each token was there."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prosparse.runtime.decode import Decoder


@dataclass(frozen=True, slots=True)
class Decoded:
    """One run."""

    tokens: list[int]
    step_ms: list[float]
    """Milliseconds from each token to the next; the prompt's own pass is not among them."""


Decode = Callable[[Tensor, int], Decoded]
"""Decode greedily so many tokens after a prompt [1, P], one at a time."""


class TokenClock:
    """Notes moments on a device: events on a GPU, which nothing waits for, else a wall clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._moments: list[Any] = []

    def tick(self) -> None:
        """Note this moment."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._moments.append(event)
        else:
            self._moments.append(time.perf_counter())

    def steps_ms(self) -> list[float]:
        """Return the milliseconds between neighboring moments."""
        pairs = zip(self._moments, self._moments[1:], strict=False)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return [start.elapsed_time(end) for start, end in pairs]
        return [1e3 * (end - start) for start, end in pairs]


def stock_decode(model: PreTrainedModel, compile_mode: str | None) -> Decode:
    """Return `model.generate`, as transformers has it.

    Args:
        model: Its generation config must name no end-of-text token.
        compile_mode: None is eager with a growing cache; a mode of torch.compile decodes with a
            static cache and that compiled step.
    """
    from transformers import LogitsProcessor, LogitsProcessorList
    from transformers.generation import CompileConfig

    options: dict[str, Any] = {}
    if compile_mode is not None:
        config = CompileConfig(mode=compile_mode, fullgraph=False, dynamic=False)
        config._compile_all_devices = True  # else transformers compiles on GPUs only
        options = {"cache_implementation": "static", "compile_config": config}

    class Ticks(LogitsProcessor):
        """Called once for each token, between the forward pass and the choice."""

        def __init__(self, clock: TokenClock) -> None:
            self.clock = clock

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            self.clock.tick()
            return scores

    def decode(prompt: Tensor, num_tokens: int) -> Decoded:
        clock = TokenClock(prompt.device)
        ids = model.generate(  # type: ignore[operator]
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=num_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList([Ticks(clock)]),
            **options,
        )
        return Decoded(ids[0, prompt.shape[1] :].tolist(), clock.steps_ms())

    return decode


def loop_decode(decoder: Decoder) -> Decode:
    """Return decoding with our own loop; nothing waits for the GPU until the last token."""

    def decode(prompt: Tensor, num_tokens: int) -> Decoded:
        clock = TokenClock(prompt.device)
        tokens = [decoder.prefill(prompt)]
        clock.tick()
        for _ in range(num_tokens - 1):
            tokens.append(decoder.step())
            clock.tick()
        return Decoded(torch.cat(tokens, dim=1)[0].tolist(), clock.steps_ms())

    return decode


def forget_compiled(model: PreTrainedModel) -> None:
    """Drop what was compiled and captured for a contender, so that the next starts from nothing."""
    vars(model).pop("_compiled_call", None)  # where transformers keeps its compiled step
    torch._dynamo.reset()
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
        torch.cuda.empty_cache()


@contextlib.contextmanager
def endless(model: PreTrainedModel) -> Iterator[None]:
    """Let a model decode past its end-of-text token: every run has the same number of tokens."""
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig(pad_token_id=0)
    try:
        yield
    finally:
        model.generation_config = before
