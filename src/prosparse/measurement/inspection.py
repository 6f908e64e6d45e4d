# SPDX-License-Identifier: Apache-2.0
"""`prosparse inspect`: the text that fires single neurons."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prosparse.data.sources import Source, as_sources
from prosparse.errors import UserError
from prosparse.measurement.firing import FiringMeter
from prosparse.measurement.layer_passes import LayerPasses
from prosparse.measurement.neurons import NeuronCounts
from prosparse.measurement.perplexity import forward_dtype
from prosparse.model.checkpoint import load, load_tokenizer
from prosparse.model.device import choose_device, forward_precision, provenance
from prosparse.model.ffn import FFN, ffns
from prosparse.model.quantizing import head_weight
from prosparse.model.relufy import activation_of
from prosparse.records.activity import DEAD_BELOW
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.inspection import (
    InspectionRecord,
    NeuronActivity,
    NeuronContext,
    NeuronInspection,
    TokenWeight,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NUM_SELECTIVE = 5
"""Neurons shown where none is named."""
NUM_WRITTEN = 10
"""Output tokens shown for each direction."""


def inspect(
    model: str | Path | PreTrainedModel,
    data: Mapping[str, str | Path | Source],
    *,
    layer: int,
    neurons: Sequence[int] = (),
    top: int = 10,
    tokens: int = 32768,
    context_length: int = 256,
    precision: str = "auto",
    device: str = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> InspectionRecord:
    """Return the text on which single neurons of a layer fire most strongly, and how often they do.

    A neuron fires on a token when its entry of x_1, the input of `down_proj`, is not zero. The
    first token of a window is left out: it has no context, and many neurons fire on it alone. Memory
    does not grow with tokens.

    Args:
        model: Folder, GGUF file, hub id, or a model that is already loaded; any activation.
        data: Data sets by name: a path or hub id, or a `Source` for more than that.
        layer: Index of the layer, from 0.
        neurons: Indices of its neurons, from 0. None named: the five that fire on the fewest
            tokens and are not dead (under 0.1 %).
        top: Places to show for each neuron, one for a window at most.
        tokens: How many tokens of each data set to run, from its start.
        context_length: Tokens in one window.
        precision: `auto`, `float32` or `bfloat16` for the matrix products.
        device: `auto`, `cpu`, `cuda`, ...
        tokenizer: Needed only with a loaded model that does not know where it came from.
        out: Folder for `record.json`; None writes nothing.
        overwrite: Replace `out` if it exists.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        progress: Show progress bars.

    Raises:
        UserError: The model or a data source cannot be used, there is no such layer or neuron, none
            is named and none is selective, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> record = ps.inspect("sparse", {"wiki": "wiki.jsonl"}, layer=4, neurons=[17])
        >>> record.neurons[0].contexts[0].tokens
    """
    started = time.monotonic()
    if out is not None:
        refuse_existing(Path(out), overwrite)
    if not data:
        raise UserError("No data to inspect neurons on; give at least one --data NAME=PATH.")
    if context_length < 2:  # the first token of a window is left out
        raise UserError(f"--context-length must be at least 2; found {context_length}.")
    if top < 1:
        raise UserError(f"--top must be at least 1; found {top}.")
    where = model.device if isinstance(model, PreTrainedModel) else choose_device(device)
    used = forward_precision(precision, where)
    name = str(model) if isinstance(model, str | Path) else model.config.name_or_path or ""
    if tokenizer is None:
        tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    if isinstance(model, PreTrainedModel):
        network = model
    else:
        dtype = torch.float32 if used == "float32" else None
        network = load(model, dtype=dtype, device=where, trust_remote_code=trust_remote_code)
    ffn = _layer(network, layer)
    _check_neurons(neurons, ffn)
    sources = as_sources(data)
    text = LayerPasses(network, ffn, tokenizer, sources, context_length, tokens, used, progress)
    if not neurons:
        neurons = _selective(text)
    meter = FiringMeter(list(dict.fromkeys(neurons)), top)
    activity = _run(text, meter)
    record = InspectionRecord(
        model=name,
        activation=activation_of(network),
        dtype=forward_dtype(network, used),
        context_length=context_length,
        neurons=tuple(
            _inspection(text, meter, index, activity[index]) for index in range(len(meter.neurons))
        ),
        seconds=time.monotonic() - started,
        provenance=provenance(where),
    )
    if out is not None:
        with whole_folder(Path(out), overwrite) as folder:
            write_record(record, folder)
    return record


def _run(text: LayerPasses, meter: FiringMeter) -> list[list[NeuronActivity]]:
    """Run all data sets; return how each neuron behaved on each of them."""
    found: list[list[NeuronActivity]] = [[] for _ in meter.neurons]
    for name, source in text.sources.items():
        meter.begin()
        text.run(name, functools.partial(meter.observe, name))
        for index, activity in enumerate(found):
            frequency = meter.num_active[index] / meter.num_tokens
            activity.append(
                NeuronActivity(name, source.path, meter.num_tokens, frequency, meter.largest[index])
            )
    return found


def _inspection(
    text: LayerPasses, meter: FiringMeter, index: int, activity: list[NeuronActivity]
) -> NeuronInspection:
    neuron = meter.neurons[index]
    promotes, suppresses = _written(text, neuron)
    return NeuronInspection(
        layer=text.ffn.layer,
        neuron=neuron,
        data=tuple(activity),
        contexts=tuple(
            NeuronContext(
                data=f.data,
                window=f.window,
                position=f.position,
                peak=f.peak,
                tokens=pieces(text.tokenizer, f.ids),
                values=f.values,
            )
            for f in meter.strongest(index)
        ),
        promotes=promotes,
        suppresses=suppresses,
    )


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, ...]:
    """Return the text of each token in its place, so that together they are the whole text.

    Tokens that are decoded alone lose their spaces in some tokenizers. A character of several
    tokens belongs to the last of them; those before are the replacement character.
    """
    grown = [str(tokenizer.decode(list(ids[:end]))) for end in range(len(ids) + 1)]
    return tuple(
        after[len(before.rstrip("\ufffd")) :]
        for before, after in zip(grown, grown[1:], strict=False)
    )


def _written(
    text: LayerPasses, neuron: int
) -> tuple[tuple[TokenWeight, ...], tuple[TokenWeight, ...]]:
    """Return the output tokens whose logits a neuron's column of down_proj raises and lowers most."""
    weight_VD = head_weight(text.model)
    if weight_VD is None:
        return (), ()
    column_D = text.ffn.weights()["down_proj"][:, neuron]
    weight_V = (weight_VD.detach() @ column_D.detach().to(weight_VD.dtype)).float()
    weight_V = weight_V[: len(text.tokenizer)]  # a padded vocabulary has rows without a token

    def named(weights: Tensor, ids: Tensor) -> tuple[TokenWeight, ...]:
        return tuple(
            TokenWeight(str(text.tokenizer.decode([id])), value)
            for id, value in zip(ids.tolist(), weights.tolist(), strict=True)
        )

    count = min(NUM_WRITTEN, len(weight_V))
    return named(*weight_V.topk(count)), named(*weight_V.topk(count, largest=False))


def _selective(text: LayerPasses) -> list[int]:
    """Return the neurons that fire on the fewest tokens and are not dead.

    Raises:
        UserError: Every neuron is dead or fires on every token.
    """
    counts = NeuronCounts(1, text.ffn.d_ff, text.model.device)

    def count(_first: int, _ids: Tensor, x1_BSF: Tensor) -> None:
        mask_TF = (x1_BSF[:, 1:] != 0).flatten(0, 1)
        counts.observe(mask_TF.sum(0, dtype=torch.int32)[None], len(mask_TF))

    for name in text.sources:
        text.run(name, count)
    frequency_F = counts.frequency_LF()[0]
    order = frequency_F.argsort(stable=True).tolist()
    found = [neuron for neuron in order if DEAD_BELOW <= frequency_F[neuron].item() < 1]
    if not found:
        raise UserError(
            f"In layer {text.ffn.layer} no neuron tells tokens apart by firing (each is zero on all, or "
            "on none, as in a dense model); name the ones to inspect with --neuron."
        )
    return found[:NUM_SELECTIVE]


def _layer(model: PreTrainedModel, layer: int) -> FFN:
    found = ffns(model)
    if not 0 <= layer < len(found):
        raise UserError(f"The model has layers 0 to {len(found) - 1}; there is no --layer {layer}.")
    return found[layer]


def _check_neurons(neurons: Sequence[int], ffn: FFN) -> None:
    for neuron in neurons:
        if not 0 <= neuron < ffn.d_ff:
            raise UserError(
                f"Layer {ffn.layer} has neurons 0 to {ffn.d_ff - 1}; there is no --neuron {neuron}."
            )
