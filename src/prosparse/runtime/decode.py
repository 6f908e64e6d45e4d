# SPDX-License-Identifier: Apache-2.0
"""A decode loop that costs the host next to nothing: one step, the same each time, for replay.

`model.generate` runs some milliseconds of Python for every token, longer than a GPU needs for the
whole step of a small model. Here everything a step reads or changes stands in buffers that never
move (`Decoder._buffers`), so it can be captured in one CUDA graph and replayed for each token; the
host looks at the tokens every few steps only. On a CPU the same step runs without a graph.
B batch, P prompt length, V vocabulary.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from prosparse.errors import UserError
from prosparse.runtime.accelerate import is_accelerated
from prosparse.runtime.compiled import compile_step
from prosparse.runtime.decodable import arguments, cache_name, num_cache_layers, why_no_decoder
from prosparse.runtime.llama_step import LlamaStep, why_no_llama_step
from prosparse.runtime.sampling import sampled_by_transformers, sampled_on_device
from prosparse.runtime.static_layer import StaticLayerOfAll

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
        one_call: On a CPU, take the step in one call of our library where the model allows it, the prompt
            stands alone and nothing is compiled.
        keeps_shared_inputs: See `compile_step`; None: where the FFNs are sparse.
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
        one_call: bool = True,
        keeps_shared_inputs: bool | None = None,
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
        self._wants_one_call = one_call and compile is None
        self._one_call: LlamaStep | None = None
        self._next: Callable[..., Tensor] = self._logits_or_likeliest
        self._is_compiled = compile is not None
        self._are_guards_checked = False
        if compile is not None:
            keeps = is_accelerated(model) if keeps_shared_inputs is None else keeps_shared_inputs
            self._next = compile_step(self._next, compile, model.device, keeps)
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
        self._are_guards_checked = False
        self._cache.reset()
        self._ids[:, :length] = input_ids
        # Padding only: that the future is not seen is for the model's causal mask.
        self._mask.fill_(1)
        if attention_mask is not None:
            self._mask[:, :length] = attention_mask
        positions = (self._mask[:, :length].cumsum(dim=1) - 1).clamp_min(0)
        last_only = {"logits_to_keep": 1} if "logits_to_keep" in arguments(self.model) else {}
        self._cached.fill_(0)
        logits = self.model(
            input_ids=self._ids[:, :length],
            attention_mask=self._mask[:, :length],
            position_ids=positions,
            use_cache=True,
            **{cache_name(self.model): self._cache},
            **last_only,
        ).logits[:, -1]
        self._cached.fill_(length)
        self._position.copy_(positions[:, -1:] + 1)
        self._one_call = self._llama_step()
        if self._temperature == 0:
            self._write(logits.argmax(dim=-1, keepdim=True))
        else:
            self._write(self._sample(logits))
        self._start = [buffer.clone() for buffer in self._buffers()]
        self._prompt_length, self.length = length, length + 1
        return self._ids[:, length : length + 1].clone()

    @torch.no_grad()
    def step(self) -> Tensor:
        """Generate one more token for each prompt and return a view of it, [B, 1]."""
        assert 0 < self.length < self.max_length, "prefill first, and stay within max_length"
        if self._wants_graph and self._graph is None:
            self._graph = self._capture()
        if self._one_call is not None:
            self._advance_in_one_call(self._one_call)
        elif self._graph is None:
            with self._guards():
                self._advance()
        else:
            self._graph.replay()
        self._are_guards_checked = True
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
        self._cached = torch.zeros((), dtype=torch.long, device=device)
        self._position = torch.zeros(batch, 1, dtype=torch.long, device=device)
        # Full layers for sliding windows too, which count on the host; the mask keeps the window.
        count = num_cache_layers(self.model)
        self._cache = Cache(
            layers=[StaticLayerOfAll(self.max_length, self._cached) for _ in range(count)]
        )

    def _forget_graph_of_other_weights(self) -> None:
        """A graph reads the addresses it was captured with: `accelerate` and `.to()` change them."""
        weights = [parameter.data_ptr() for parameter in self.model.parameters()]
        if weights != self._weights:
            self._weights, self._graph = weights, None

    def _guards(self) -> contextlib.AbstractContextManager[object]:
        """After the first step since a prefill: do not ask again whether compiled code still fits.

        Asking takes a millisecond, as it looks at every module; between two steps nothing changes.
        """
        if not (self._is_compiled and self._are_guards_checked):
            return contextlib.nullcontext()
        return torch.compiler.set_stance(skip_guard_eval_unsafe=True)

    def _buffers(self) -> list[Tensor]:
        """All that says where the loop stands; keys and values beyond are masked."""
        return [self._ids, self._cached, self._position]

    def _advance(self) -> None:
        """One step: read the first token that is not cached, write the next one behind it."""
        found = self._next(
            input_ids=self._ids.index_select(1, self._cached.view(1)),
            attention_mask=self._mask,
            position_ids=self._position,
            use_cache=True,
            **{cache_name(self.model): self._cache},
        )
        self._cached.add_(1)
        self._position.add_(1)
        self._write(found if self._temperature == 0 else self._sample(found))

    def _llama_step(self) -> LlamaStep | None:
        """After a prompt: return what takes the next steps in one call each, if anything does."""
        is_tried = self._wants_one_call and len(self._ids) == 1
        if not is_tried or why_no_llama_step(self.model) is not None or not self._mask.all():
            return None
        return LlamaStep(self.model, self._cache, self.max_length)

    def _advance_in_one_call(self, step: LlamaStep) -> None:
        likeliest = step(int(self._ids[0, self.length - 1]), self.length - 1)
        self._cached.add_(1)
        self._position.add_(1)
        if self._temperature == 0:
            self._ids[0, self.length] = likeliest
        else:
            self._write(self._sample(step.logits))

    def _logits_or_likeliest(self, **inputs: Any) -> Tensor:
        """What of the step is compiled: the model, and the choice unless it is drawn."""
        logits_BV = self.model(**inputs).logits[:, -1]
        return logits_BV.argmax(dim=-1, keepdim=True) if self._temperature == 0 else logits_BV

    def _write(self, tokens_B1: Tensor) -> None:
        self._ids.index_copy_(1, self._cached.view(1), tokens_B1)

    def _sample(self, logits_BV: Tensor) -> Tensor:
        draw = sampled_on_device if self._one_call is None else sampled_by_transformers
        return draw(logits_BV.float(), self._temperature, self._top_p)

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
