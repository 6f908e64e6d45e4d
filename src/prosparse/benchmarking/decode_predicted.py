# SPDX-License-Identifier: Apache-2.0
"""The approximate contender of the decode benchmark, and what its predictors did to the text.

It is not held to the dense model's tokens and zeros, which it may miss; how much it misses is measured
on the dense model's own text instead, and stands beside its time (the shape of Table 2 of ProSparse).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from prosparse.benchmarking.decode_check import DenseDecode, cached_logits
from prosparse.benchmarking.decode_contenders import DecodeContender, own_loop
from prosparse.kernels.backend import choose_backend
from prosparse.model.ffn import ffns
from prosparse.predictors.norms import as_reading
from prosparse.predictors.skipping import Judge
from prosparse.records.decode_speed import PredictedDecode
from prosparse.runtime.accelerate import accelerate
from prosparse.runtime.decodable import cache_name

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from prosparse.benchmarking.decode_model import Traffic
    from prosparse.benchmarking.decode_runs import Decode
    from prosparse.predictors.predictor import Predictors


def predicted_contenders(
    device: torch.device, compiled: bool, predictors: Predictors, quality: PredictedDecode
) -> list[DecodeContender]:
    """Return the contenders that go by predictors.

    Args:
        device: Where.
        compiled: Also that made by torch.compile.
        predictors: Of the model.
        quality: What they predict on the text.
    """

    def setup_of(is_compiled: bool):  # noqa: ANN202 - a Setup
        @contextlib.contextmanager
        def setup(model: PreTrainedModel, max_length: int) -> Iterator[Decode]:
            with (
                accelerate(model, max_tokens=1, backend="predicted", predictors=predictors),
                own_loop(is_compiled)(model, max_length) as decode,
            ):
                yield decode

        return setup

    def num_mb(weights: Traffic, _layers: object) -> float:
        skipped = weights.gate * quality.predicted_sparsity
        active = (1 - quality.sparsity) * quality.recall
        return weights.dense - skipped - weights.up_and_down * (1 - active) + quality.predictor_mb

    backend = choose_backend(device)
    names = ["predicted, our loop"]
    if compiled:
        names.append("predicted, our loop, compiled")
    return [
        DecodeContender(
            name,
            setup_of(name.endswith("compiled")),
            num_mb,
            is_compiled=name.endswith("compiled"),
            is_own_loop=compiled == name.endswith("compiled") and backend != "reference",
            is_approximate=True,
        )
        for name in names
    ]


@torch.no_grad()
def judge_predictors(
    model: PreTrainedModel,
    predictors: Predictors,
    folder: str,
    prompt: Tensor,
    dense: DenseDecode,
) -> PredictedDecode:
    """Return what predictors do on the dense model's own text, the new tokens only.

    Args:
        model: The dense model.
        predictors: As they were read.
        folder: Where from.
        prompt: [1, P].
        dense: What the dense model decoded.
    """
    found, own = ffns(model), predictors.to(model.device, model.dtype)
    judge = Judge(model, found, own)
    fed = torch.tensor([dense.tokens[:-1]], device=prompt.device)
    name = cache_name(model)
    cache = getattr(model(input_ids=prompt, use_cache=True), name)
    with judge.watch():
        model(input_ids=fed, use_cache=True, **{name: cache})
    with accelerate(
        model,
        max_tokens=1,
        backend="predicted",
        predictors=as_reading(predictors, "ffn-input", model),
    ):
        logits_NV = cached_logits(model, prompt, len(dense.tokens), dense.tokens)
    layers = judge.qualities()
    numel = sum(layer.fc1.numel() + layer.fc2.numel() for layer in predictors.layers)
    return PredictedDecode(
        predictors=folder,
        recall=sum(layer.recall for layer in layers) / len(layers),
        predicted_sparsity=sum(layer.predicted_sparsity for layer in layers) / len(layers),
        sparsity=sum(layer.sparsity for layer in layers) / len(layers),
        missed=sum(layer.missed for layer in layers) / len(layers),
        predictor_mb=1e-6 * numel * model.dtype.itemsize,
        logit_difference=float((logits_NV - dense.logits).abs().max()),
    )
