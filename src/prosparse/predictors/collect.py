# SPDX-License-Identifier: Apache-2.0
"""Collect pairs: run text through the model and write what every FFN was given and did."""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from prosparse.data.windows import each_window
from prosparse.errors import UserError
from prosparse.measurement.pruning import column_norms, contributions
from prosparse.model.device import autocast
from prosparse.model.ffn import ffns
from prosparse.model.ffn_inputs import tap_inputs
from prosparse.predictors.pairs import (
    Layout,
    Pairs,
    PairWriter,
    finished_pairs,
    refuse_too_large,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prosparse.data.sources import Source
    from prosparse.model.ffn_inputs import InputKind

LOG = logging.getLogger(__name__)

SPREAD = 16
"""Of so many windows of text one is taken: the more documents, the more a predictor learns."""
LEAST_ROWS = 40  # a twentieth of them is for validation


@torch.no_grad()
def collect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Mapping[str, Source],
    folder: Path,
    *,
    name: str,
    rows: int,
    reads: InputKind,
    context_length: int,
    precision: str,
    progress: bool,
) -> Pairs:
    """Return `rows` pairs of every layer, from all data sets in turn; those of an earlier call if same.

    Args:
        model: The sparse model.
        tokenizer: Its tokenizer.
        sources: Text by name; windows are taken from each in turn, spread over its beginning.
        folder: Where the pairs are written.
        name: The model's name.
        rows: Tokens in all.
        reads: What the predictors are to read.
        context_length: Tokens in one window.
        precision: `float32` or `bfloat16`, of the forward passes.
        progress: Show a progress bar.

    Raises:
        UserError: The data sets do not have so many tokens, or there is no room for the pairs.
    """
    found = ffns(model)
    if rows < LEAST_ROWS:
        raise UserError(f"--rows must be at least {LEAST_ROWS}; found {rows}.")
    layout = Layout(
        rows=rows,
        num_layers=len(found),
        d_model=found[0].d_model,
        d_ff=found[0].d_ff,
        reads=reads,
        made_from=f"{name}; {dict(sources)}; {context_length}; {precision}",
    )
    known = finished_pairs(folder, layout)
    if known is not None:
        return known
    refuse_too_large(layout, folder)
    LOG.warning(
        "Collecting %s rows of %d layers: %.2f GB in %s.",
        f"{rows:,}", layout.num_layers, layout.num_bytes / 1e9, folder,
    )  # fmt: skip
    writer = PairWriter(folder, layout)
    inputs: dict[int, Tensor] = {}
    first = 0

    norms = [column_norms(ffn) for ffn in found]

    def hook_for(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
            x1_TF = _flat(args[0])
            shares_TF = output_shares(x1_TF, _flat(y), norms[layer])
            writer.write(layer, first, _flat(inputs.pop(layer)), x1_TF, shares_TF)

        return hook

    batch_size = max(1, (16384 if model.device.type == "cuda" else 2048) // context_length)
    windows = _in_turn(sources, tokenizer, context_length, rows)
    bar = tqdm(total=rows, unit="row", desc="collecting", disable=not progress, leave=False)
    with contextlib.ExitStack() as stack:
        stack.enter_context(tap_inputs(model, found, reads, inputs.__setitem__))
        for ffn in found:
            stack.enter_context(ffn.down.register_forward_hook(hook_for(ffn.layer)))
        stack.enter_context(autocast(precision, model.device))
        stack.enter_context(bar)
        while first < rows:
            batch = list(itertools.islice(windows, batch_size))
            if not batch:
                raise UserError(
                    f"The data sets fill {first} rows and {rows} are wanted; give more --data or ask "
                    "for fewer --rows."
                )
            ids_BS = torch.stack(batch).to(model.device)
            model.base_model(input_ids=ids_BS, use_cache=False)
            first += ids_BS.numel()
            bar.update(ids_BS.numel())
    writer.finish()
    return Pairs(folder)


def output_shares(x1_TF: Tensor, y_TD: Tensor, norms_F: Tensor) -> Tensor:
    """Return each neuron's share of the output, |x_1j| ||down_proj[:, j]|| / ||y||, float32 [T, F].

    Args:
        x1_TF: The intermediate.
        y_TD: The FFN's output.
        norms_F: Of the columns of the down projection, float32.
    """
    whole_T1 = y_TD.float().norm(dim=1, keepdim=True)
    return contributions(x1_TF, norms_F).div_(whole_T1.clamp_min(torch.finfo(torch.float32).tiny))


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _in_turn(
    sources: Mapping[str, Source],
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    num_tokens: int,
) -> Iterator[Tensor]:
    """Yield a window of each data set in turn, so that the last rows are of all of them."""
    wanted = -(-num_tokens // (context_length * len(sources)))
    streams = [
        iter(_spread(source, name, tokenizer, context_length, wanted))
        for name, source in sources.items()
    ]
    while streams:
        for stream in list(streams):
            window = next(stream, None)
            if window is None:
                streams.remove(stream)
            else:
                yield window


def _spread(
    source: Source,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    wanted: int,
) -> list[Tensor]:
    """Return up to `wanted` windows from all over the first `SPREAD` times as many, in their order."""
    most = SPREAD * wanted * context_length
    generator = random.Random(0)
    kept: dict[int, Tensor] = {}  # a uniform sample of what has been seen (Vitter, 1985)
    places: list[int] = []
    for place, window in enumerate(each_window(source, name, tokenizer, context_length, most)):
        if len(places) < wanted:
            places.append(place)
        else:
            other = generator.randrange(place + 1)
            if other >= wanted:
                continue
            del kept[places[other]]
            places[other] = place
        kept[place] = window
    return [kept[place] for place in sorted(kept)]
