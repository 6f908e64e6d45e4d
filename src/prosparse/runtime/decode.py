# SPDX-License-Identifier: Apache-2.0
"""A decode loop that costs the host next to nothing: one step, the same each time, for replay.

`model.generate` runs some milliseconds of Python for every token, longer than a GPU needs for the
whole step of a small model. Here everything a step reads or changes stands in buffers that never
move (`Decoder._buffers`), so it can be captured in one CUDA graph and replayed for each token; the
host looks at the tokens every few steps only. On a CPU the same step runs without a graph.
B batch, P prompt length, V vocabulary.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer

from prosparse.errors import UserError
from prosparse.runtime.decodable import arguments, num_cache_layers, why_no_decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel

NUM_WARM_UPS = 2


class Decoder:
    """Generates with a static cache, one identical step for every token.

    Args:
        model: A causal language model, accelerated or not, on one device.
        max_length: Room for prompt and new tokens together.
        compile: Mode of `torch.compile` for the model's part of the step, such as `default` or
            `max-autotune-no-cudagraphs`; None runs it as it is.
        graph: Capture the step in a CUDA graph and replay it.
        temperature: 0 takes the likeliest token; above 0 samples.
        top_p: Sample from the smallest set of tokens with this much probability, in (0, 1].

    Raises:
        UserError: The model cannot be decoded by fixed steps.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_length: int,
        compile: str | None = None,
        graph: bool = False,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> None:
        reason = why_no_decoder(model)
        if reason is not None:
            raise UserError(f"This model cannot be decoded by fixed steps: {reason}")
        self.model = model
        self.max_length = max_length
        self.length = 0
        """Tokens so far, the prompt's among them."""
        self._temperature = temperature
        self._top_p = top_p
        self._wants_graph = graph
        self._graph: torch.cuda.CUDAGraph | None = None
        self._forward: Callable[..., Any] = model.__call__
        if compile is not None:
            self._forward = torch.compile(self._forward, mode=compile, fullgraph=True)
        self._ids = torch.empty(0, 0)
        self._weights: list[int] = []
        self._start: list[Tensor] = []

    @torch.no_grad()
    def prefill(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Read prompts and return the first new token of each, [B, 1].

        Args:
            input_ids: [B, P], P < max_length; B the same in every call.
            attention_mask: [B, P], 0 where a prompt is padded, which is on the left; None: nowhere.
        """
        batch, length = input_ids.shape
        if length >= self.max_length:
            raise ValueError(f"{length} tokens leave no room below max_length {self.max_length}.")
        if not len(self._ids):
            self._allocate(batch)
        if len(self._ids) != batch:
            raise ValueError(f"This decoder holds {len(self._ids)} prompts at once; found {batch}.")
        self._forget_graph_of_other_weights()
        self._cache.reset()
        self._ids[:, :length] = input_ids
        # Padding only: that the future is not seen is for the model's causal mask.
        self._mask.fill_(1)
        if attention_mask is not None:
            self._mask[:, :length] = attention_mask
        positions = (self._mask[:, :length].cumsum(dim=1) - 1).clamp_min(0)
        last_only = {"logits_to_keep": 1} if "logits_to_keep" in arguments(self.model) else {}
        logits = self.model(
            input_ids=self._ids[:, :length],
            attention_mask=self._mask[:, :length],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            **last_only,
        ).logits[:, -1]
        self._slot.fill_(length)
        self._position.copy_(positions[:, -1:] + 1)
        self._ids.index_copy_(1, self._slot, self._choose(logits))
        self._start = [buffer.clone() for buffer in self._buffers()]
        self._prompt_length, self.length = length, length + 1
        return self._ids[:, length : length + 1].clone()

    @torch.no_grad()
    def step(self) -> Tensor:
        """Generate one more token for each prompt and return a view of it, [B, 1]."""
        assert 0 < self.length < self.max_length, "prefill first, and stay within max_length"
        if self._wants_graph and self._graph is None:
            self._graph = self._capture()
        if self._graph is None:
            self._advance()
        else:
            self._graph.replay()
        self.length += 1
        return self._ids[:, self.length - 1 : self.length]

    def rewind(self) -> None:
        """Go back to the end of the last prefill."""
        for buffer, start in zip(self._buffers(), self._start, strict=True):
            buffer.copy_(start)
        self.length = self._prompt_length + 1

    def stream(
        self,
        input_ids: Tensor,
        max_new_tokens: int,
        *,
        attention_mask: Tensor | None = None,
        check_every: int = 8,
    ) -> Iterator[Tensor]:
        """Yield the new tokens in pieces [B, n] on the host, until all prompts have ended.

        Args:
            input_ids: [B, P].
            max_new_tokens: At most this many; P + max_new_tokens <= max_length.
            attention_mask: As in `prefill`.
            check_every: Tokens between two looks at what has been generated.
        """
        config = self.model.generation_config  # type: ignore[attr-defined]
        ends = torch.tensor(config.eos_token_id if config.eos_token_id is not None else []).view(-1)
        pad = config.pad_token_id if config.pad_token_id is not None else next(iter(ends), 0)
        shown = input_ids.shape[1]
        end = shown + max_new_tokens
        if end > self.max_length:
            raise ValueError(f"{end} tokens are more than max_length {self.max_length}.")
        self.prefill(input_ids, attention_mask)
        has_ended = torch.zeros(len(input_ids), 1, dtype=torch.bool)
        while shown < end and not has_ended.all():
            while self.length < min(shown + check_every, end):
                self.step()
            piece_BN = self._ids[:, shown : self.length].cpu()
            shown = self.length
            is_end_BN = torch.isin(piece_BN, ends)
            is_past_BN = has_ended | (is_end_BN.cumsum(dim=1) - is_end_BN.long() > 0)
            has_ended |= is_end_BN.any(dim=1, keepdim=True)
            yield piece_BN.masked_fill(is_past_BN, int(pad))[:, ~is_past_BN.all(dim=0)]

    def generate(self, input_ids: Tensor, max_new_tokens: int, **options: Any) -> Tensor:
        """Return prompts and new tokens, [B, P + n], as `model.generate` does; see `stream`."""
        pieces = list(self.stream(input_ids, max_new_tokens, **options))
        return torch.cat([input_ids, *(piece.to(input_ids.device) for piece in pieces)], dim=1)

    def seconds_per_step(self, num_steps: int) -> float:
        """Return the mean time of the first `num_steps` steps after the last prefill."""
        self.rewind()
        self.step()  # captures the graph
        self.rewind()
        self._synchronize()
        began = time.perf_counter()
        for _ in range(num_steps):
            self.step()
        self._synchronize()
        return (time.perf_counter() - began) / num_steps

    def _allocate(self, batch: int) -> None:
        device = self.model.device
        self._ids = torch.zeros(batch, self.max_length, dtype=torch.long, device=device)
        self._mask = torch.ones_like(self._ids)
        self._slot = torch.zeros(1, dtype=torch.long, device=device)
        self._position = torch.zeros(batch, 1, dtype=torch.long, device=device)
        # Full layers for sliding windows too, which count on the host; the mask keeps the window.
        count = num_cache_layers(self.model)
        self._layers = [StaticLayer(self.max_length) for _ in range(count)]
        self._cache = Cache(layers=list(self._layers))

    def _forget_graph_of_other_weights(self) -> None:
        """A graph reads the addresses it was captured with: `accelerate` and `.to()` change them."""
        weights = [parameter.data_ptr() for parameter in self.model.parameters()]
        if weights != self._weights:
            self._weights, self._graph = weights, None

    def _buffers(self) -> list[Tensor]:
        """All that says where the loop stands; keys and values beyond are masked."""
        lengths = [layer.cumulative_length for layer in self._layers]
        return [self._ids, self._slot, self._position, *lengths]

    def _advance(self) -> None:
        """One step: read the token at `_slot`, write the next one behind it."""
        logits_BV = self._forward(
            input_ids=self._ids.index_select(1, self._slot),
            attention_mask=self._mask,
            position_ids=self._position,
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        self._slot.add_(1)
        self._position.add_(1)
        self._ids.index_copy_(1, self._slot, self._choose(logits_BV))

    def _choose(self, logits_BV: Tensor) -> Tensor:
        if self._temperature == 0:
            return logits_BV.argmax(dim=-1, keepdim=True)
        probs, tokens = (
            (logits_BV.float() / self._temperature).softmax(dim=-1).sort(descending=True)
        )
        probs = probs.masked_fill(probs.cumsum(dim=-1) - probs >= self._top_p, 0)
        # The largest p / Exp(1) is token i with probability p_i; multinomial would ask the host.
        noise = torch.empty_like(probs).exponential_().clamp_min_(torch.finfo(probs.dtype).tiny)
        return tokens.gather(-1, (probs / noise).argmax(dim=-1, keepdim=True))

    def _capture(self) -> torch.cuda.CUDAGraph:
        before = [buffer.clone() for buffer in self._buffers()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles, loads and allocates what a capture may not
            for _ in range(NUM_WARM_UPS):
                self._advance()
                for buffer, value in zip(self._buffers(), before, strict=True):
                    buffer.copy_(value)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._advance()
        return graph

    def _synchronize(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
