# SPDX-License-Identifier: Apache-2.0
"""Who runs in the race at one precision: stock transformers, llama.cpp, ours dense and ours sparse.

All hold weights of one model. Ours share them in memory; stock transformers has its own copy, because
ours lays `down_proj` out by neurons.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from race_llamacpp import NO_FFN, can_repack, llama_decode, write_gguf
from torch import Tensor

import prosparse as ps
from prosparse.benchmarking.decode_model import layer_sparsity, set_thresholds, traffic
from prosparse.benchmarking.decode_parts import bare
from prosparse.benchmarking.decode_runs import Decode, endless, loop_decode, stock_decode
from prosparse.kernels.projections import ALL_PASS
from prosparse.model.ffn import ffns
from prosparse.model.quantized import GROUP_SIZE
from prosparse.model.quantizing import hold_all, places
from prosparse.runtime.decode import Decoder
from prosparse.runtime.sparse_ffn import PATH, SparsePath

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel

FILES = {16: ("F16", "BF16"), 8: ("Q8_0",), 4: ("Q4_0",)}


@dataclass(frozen=True, slots=True)
class Entrant:
    """One way to decode at one precision."""

    name: str
    bits: int
    decode: Decode
    mb: float | None
    """Weights that a token reads, in MB; None where they are not known."""
    without_ffns: Decode | None = None
    """The same without any FFN."""


@dataclass(frozen=True, slots=True)
class Course:
    """What all entrants have in common."""

    prompt: Tensor
    """[1, P]"""
    max_length: int
    compiled: bool
    sparsities: Sequence[float]
    """That thresholds are set for; empty: the model has its own."""
    folder: Path
    """Where files of llama.cpp are written."""


@contextlib.contextmanager
def entrants(
    model: PreTrainedModel, bits: int, course: Course, with_llamacpp: bool
) -> Iterator[list[Entrant]]:
    """Set up everyone at a precision: 16 (the model's own dtype), 8 or 4 bits."""
    with ExitStack() as stack, torch.no_grad():
        found = []
        if bits == 16:
            found += _stock(model, course, stack)
        if with_llamacpp:
            for kind in FILES[bits]:
                found += _llamacpp(model, kind, course, stack)
        found += _ours(model, bits, course, stack)
        yield found


def _stock(model: PreTrainedModel, course: Course, stack: ExitStack) -> list[Entrant]:
    stack.enter_context(endless(model))
    mb = traffic(model).dense
    no_ffn = _twin(model)
    stack.enter_context(bare(no_ffn, keep_attention=True))
    found = [Entrant("transformers", 16, stock_decode(model, None), mb, stock_decode(no_ffn, None))]
    if course.compiled:
        found.append(
            Entrant("transformers, compiled", 16, stock_decode(_twin(model), "default"), mb)
        )
    return found


def _llamacpp(model: PreTrainedModel, kind: str, course: Course, stack: ExitStack) -> list[Entrant]:
    """Return llama.cpp with one kind of file; quantized ones with weights repacked and as they are."""
    threads, bits = torch.get_num_threads(), next(b for b, kinds in FILES.items() if kind in kinds)
    paths = [course.folder / f"{kind}-{part}.gguf" for part in ("no-ffn", "whole")]
    mb = 0.0
    for path, with_ffns in zip(paths, (False, True), strict=True):
        mb = write_gguf(cast("LlamaForCausalLM", model), path, kind, with_ffns=with_ffns)
    found = []
    for repacked in (True, False) if kind.startswith("Q") else (True,):
        if repacked and not all(can_repack(path, threads) for path in paths):
            continue
        no_ffn, whole = (
            stack.enter_context(llama_decode(path, course.max_length, threads, repacked))
            for path in paths
        )
        name = f"llama.cpp {kind}" + ("" if repacked else ", not repacked")
        found.append(Entrant(name, bits, whole, mb, no_ffn))
    return found


def _ours(model: PreTrainedModel, bits: int, course: Course, stack: ExitStack) -> list[Entrant]:
    base, no_ffn = copy.deepcopy(model), copy.deepcopy(model)
    _keep_few_neurons(no_ffn)
    if bits < 16:
        _hold_everything(base, bits)
        _hold_everything(no_ffn, bits)
    stack.enter_context(endless(base))
    stack.enter_context(endless(no_ffn))
    stack.enter_context(ps.accelerate(no_ffn, max_tokens=1))
    rest = _loop(no_ffn, course)
    # The one that lays the weights out comes first and is taken away last.
    dense = _twin(base)
    stack.enter_context(ps.accelerate(dense, max_tokens=1))
    _let_all_pass(dense)
    found = [Entrant("ours, dense", bits, _loop(dense, course), traffic(base).dense, rest)]
    for wanted in course.sparsities or (None,):
        sparse = _twin(base)
        if wanted is not None:
            set_thresholds(sparse, wanted, seed=0)
        layers = layer_sparsity(sparse, course.prompt, course.prompt.shape[1])
        mb = traffic(sparse).sparse(layers)
        stack.enter_context(ps.accelerate(sparse, max_tokens=1))
        share = sum(layers) / len(layers) if wanted is None else wanted
        found.append(Entrant(f"ours, sparse {share:.1%}", bits, _loop(sparse, course), mb, rest))
    return found


def _keep_few_neurons(model: PreTrainedModel) -> None:
    """Leave as few neurons in every FFN as llama.cpp's file without FFNs has."""
    for layer in cast("LlamaForCausalLM", model).model.layers:
        gate, up, down = layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj
        gate.weight.data, up.weight.data = gate.weight[:NO_FFN].clone(), up.weight[:NO_FFN].clone()
        down.weight.data = down.weight[:, :NO_FFN].clone()


def _hold_everything(model: PreTrainedModel, bits: int) -> None:
    """Hold every matrix in so few bits, whether the model bears it or not, as llama.cpp's files do."""
    found = places(model)
    hold_all(model, {place.name: bits for place in found}, found, GROUP_SIZE)


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    """Return another model of the same weights, each held once."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _let_all_pass(model: PreTrainedModel) -> None:
    """Let our own kernels run every neuron: another function, in the time of a dense one."""
    for ffn in ffns(model):
        path = cast("SparsePath", getattr(ffn.module, PATH))
        weights = replace(path.weights(), threshold=ALL_PASS, shift=0.0)
        vars(path)["weights"] = lambda kept=weights: kept


def _loop(model: PreTrainedModel, course: Course) -> Decode:
    return loop_decode(Decoder(model, max_length=course.max_length))
