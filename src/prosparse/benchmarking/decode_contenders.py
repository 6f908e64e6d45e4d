# SPDX-License-Identifier: Apache-2.0
"""Who takes part in the decode benchmark: one entry each, the runner is shared.

To add one, add an entry: how the model is set up (and put back), and what a token must read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from prosparse.benchmarking.decode_model import Traffic
from prosparse.benchmarking.decode_runs import Decode, loop_decode, stock_decode
from prosparse.benchmarking.tinygemm import dense_int4_ffns
from prosparse.errors import UserError
from prosparse.kernels.backend import choose_backend
from prosparse.runtime import few_tokens
from prosparse.runtime.accelerate import accelerate
from prosparse.runtime.compiled import can_compile
from prosparse.runtime.decode import Decoder
from prosparse.runtime.llama_step import why_no_llama_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The loop captures its own graph. On a CPU Inductor's own products lose to our rows: nothing to tune.
COMPILE_MODES = {"cuda": "max-autotune-no-cudagraphs", "cpu": "default"}
STOCK_COMPILE_MODES = {"cuda": "reduce-overhead", "cpu": "default"}

Setup = Callable[["PreTrainedModel", int], AbstractContextManager[Decode]]
"""From a model and the longest text, in tokens, to a decode that works inside the block."""


@dataclass(frozen=True, slots=True)
class DecodeContender:
    """One way to decode."""

    name: str
    setup: Setup
    num_mb: Callable[[Traffic, Sequence[float]], float]
    """MB of weights a token reads, given the sparsity of each layer."""
    is_dense: bool = False
    is_stock: bool = False
    is_compiled: bool = False
    is_own_loop: bool = False
    """Runs in the loop whose attention and rest are timed apart."""
    is_own_judge: bool = False
    """Has weights of its own rounding: its tokens are judged by the model as it set it up."""
    is_approximate: bool = False
    """Goes by predictors: it has a time whatever its tokens."""


def decode_contenders(
    device: torch.device, compiled: bool, weight_bits: int | None = None
) -> list[DecodeContender]:
    """Return all that can take part on a device, dense ones first.

    Args:
        device: On a CPU nothing is captured, and nothing screened: its kernels read the gate as it is.
        compiled: Also those made by torch.compile; on a CPU where it finds a C++ compiler.
        weight_bits: Of quantized FFNs: there is nothing to screen then, and their dense baseline is
            PyTorch's own int4 layer on a GPU; there is none for 8 bits, nor on a CPU.
    """
    on_gpu = device.type == "cuda"
    compiled = compiled and can_compile(device)
    stock_mode = STOCK_COMPILE_MODES.get(device.type, "default")
    found = [
        DecodeContender("transformers generate", _stock(None), _dense_mb, True, True),
        DecodeContender(
            "transformers generate, compiled", _stock(stock_mode), _dense_mb,
            True, True, is_compiled=True,
        ),
        DecodeContender("dense, our loop", own_loop(False), _dense_mb, True, is_own_loop=not compiled),
        DecodeContender(
            "dense, our loop, compiled", own_loop(True), _dense_mb,
            True, is_compiled=True, is_own_loop=True,
        ),
        # What of a sparse decode's gain is its way of reading dense projections, not sparsity.
        DecodeContender("dense by our rows, our loop", _dense_rows(False), _dense_mb, True),
        DecodeContender(
            "dense by our rows, our loop, compiled", _dense_rows(True), _dense_mb,
            True, is_compiled=True,
        ),
        DecodeContender("sparse, our loop", _sparse(False), Traffic.sparse, is_own_loop=not compiled),
        DecodeContender("sparse, one call", _sparse(False, one_call=True), Traffic.sparse),
        DecodeContender("screened, our loop", _sparse(False, True), Traffic.screened),
        DecodeContender(
            "sparse, our loop, compiled", _sparse(True), Traffic.sparse,
            is_compiled=True, is_own_loop=True,
        ),
        DecodeContender(
            "screened, our loop, compiled", _sparse(True, True), Traffic.screened, is_compiled=True
        ),
    ]  # fmt: skip
    absent = ["one call"] if on_gpu else ["screened"]
    if not on_gpu and choose_backend(device) != "cpu":
        absent += ["one call", "rows"]
    found = [c for c in found if not any(word in c.name for word in absent)]
    if weight_bits is not None:
        # A dense product of dequantized weights is what prompts use, and no baseline for decoding.
        found = [c for c in found if not c.is_dense and "screened" not in c.name]
    if weight_bits == 4 and on_gpu:
        found = [
            DecodeContender(
                "dense int4, our loop", _tinygemm(False), _dense_mb, True, is_own_judge=True
            ),
            DecodeContender(
                "dense int4, our loop, compiled", _tinygemm(True), _dense_mb,
                True, is_compiled=True, is_own_judge=True,
            ),
            *found,
        ]  # fmt: skip
    return [contender for contender in found if compiled or not contender.is_compiled]


def own_loop(
    compiled: bool, keeps_shared_inputs: bool | None = None, one_call: bool = False
) -> Setup:
    """Return the setup of our decode loop: static cache, one captured graph for a step, or one call."""

    @contextlib.contextmanager
    def setup(model: PreTrainedModel, max_length: int) -> Iterator[Decode]:
        yield loop_decode(
            Decoder(
                model,
                max_length=max_length,
                compile=COMPILE_MODES.get(model.device.type, "default") if compiled else None,
                graph=model.device.type == "cuda",
                one_call=one_call,
                keeps_shared_inputs=keeps_shared_inputs,
            )
        )

    return setup


def _stock(compile_mode: str | None) -> Setup:
    @contextlib.contextmanager
    def setup(model: PreTrainedModel, max_length: int) -> Iterator[Decode]:
        yield stock_decode(model, compile_mode)

    return setup


def _sparse(compiled: bool, screened: bool = False, one_call: bool = False) -> Setup:
    @contextlib.contextmanager
    def setup(model: PreTrainedModel, max_length: int) -> Iterator[Decode]:
        with accelerate(model, max_tokens=1, screened=screened):
            reason = why_no_llama_step(model) if one_call else None
            if reason is not None:
                raise UserError(reason)
            with own_loop(compiled, one_call=one_call)(model, max_length) as decode:
                yield decode

    return setup


def _dense_rows(compiled: bool) -> Setup:
    @contextlib.contextmanager
    def setup(model: PreTrainedModel, max_length: int) -> Iterator[Decode]:
        with contextlib.ExitStack() as undo:
            for projection in few_tokens.plain_linears(model.modules()):
                few_tokens.swap_in(projection, max_tokens=1)
                undo.callback(few_tokens.swap_out, projection)
            yield undo.enter_context(own_loop(compiled)(model, max_length))

    return setup


def _tinygemm(compiled: bool) -> Setup:
    @contextlib.contextmanager
    def setup(model: PreTrainedModel, max_length: int) -> Iterator[Decode]:
        with dense_int4_ffns(model), own_loop(compiled)(model, max_length) as decode:
            yield decode

    return setup


def _dense_mb(weights: Traffic, layer_sparsity: Sequence[float]) -> float:
    return weights.dense
