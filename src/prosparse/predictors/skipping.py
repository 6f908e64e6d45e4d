# SPDX-License-Identifier: Apache-2.0
"""A model under its predictors, in plain PyTorch: count what they say, or skip what they leave out.

Skipping sets x_1 to zero where a neuron is predicted inactive, for every token of a text; what follows is
then computed from what is left, as when an engine never computes those neurons.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prosparse.model.ffn_inputs import tap_inputs
from prosparse.model.tap import tap
from prosparse.predictors.quality import Missed
from prosparse.records.predictor import PredictorQuality

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel

    from prosparse.model.ffn import FFN
    from prosparse.predictors.predictor import Predictor, Predictors


@contextlib.contextmanager
def skipping(model: PreTrainedModel, ffns: Sequence[FFN], predictors: Predictors) -> Iterator[None]:
    """Skip predicted-inactive neurons inside the block.

    Args:
        model: The model.
        ffns: Its FFNs.
        predictors: On the model's device.
    """
    predicted: dict[int, Tensor] = {}

    def predict(layer: int, h: Tensor) -> None:
        with torch.autocast(h.device.type, enabled=False):  # products of the model alone
            predicted[layer] = predictors.layers[layer].predicts(h.float())

    def hook_for(layer: int) -> Callable[..., tuple[Tensor, ...]]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x1, *others = args
            return x1.masked_fill(~predicted.pop(layer).view(x1.shape), 0), *others

        return hook

    with contextlib.ExitStack() as handles:
        handles.enter_context(tap_inputs(model, ffns, predictors.reads, predict))
        for ffn in ffns:
            handles.enter_context(ffn.down.register_forward_pre_hook(hook_for(ffn.layer)))
        yield


class Judge:
    """Counts, for each layer, how well a predictor does on what runs through the model.

    Args:
        model: The model, which stays as it is.
        ffns: Its FFNs.
        predictors: On the model's device.
    """

    def __init__(self, model: PreTrainedModel, ffns: Sequence[FFN], predictors: Predictors) -> None:
        self._model, self._ffns, self._predictors = model, ffns, predictors
        self._downs = [ffn.weights()["down_proj"].detach().float().T for ffn in ffns]
        # active, predicted, hits, entries
        self._counts = torch.zeros(len(ffns), 4, dtype=torch.int64, device=model.device)
        self._missed = [Missed(model.device) for _ in ffns]

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Count inside the block."""
        inputs: dict[int, Tensor] = {}
        with (
            tap_inputs(self._model, self._ffns, self._predictors.reads, inputs.__setitem__),
            tap(self._ffns, lambda layer, x1: self._count(layer, inputs.pop(layer), x1)),
        ):
            yield

    def qualities(self) -> tuple[PredictorQuality, ...]:
        """Return what was counted, a line for each layer."""
        lines = zip(self._predictors.layers, self._counts.tolist(), self._missed, strict=True)
        return tuple(self._quality(*line) for line in lines)

    def _count(self, layer: int, h: Tensor, x1: Tensor) -> None:
        x1_TF = x1.reshape(-1, x1.shape[-1])
        with torch.autocast(x1.device.type, enabled=False):
            predicted_TF = self._predictors.layers[layer].predicts(h.float()).view(x1_TF.shape)
            down = self._downs[layer]
            whole_T = (x1_TF.float() @ down).norm(dim=1)
            left_out_T = (x1_TF.float().masked_fill(predicted_TF, 0) @ down).norm(dim=1)
        active_TF = x1_TF != 0
        counts = [active_TF.sum(), predicted_TF.sum(), (active_TF & predicted_TF).sum()]
        self._counts[layer, :3] += torch.stack(counts)
        self._counts[layer, 3] += x1_TF.numel()
        self._missed[layer].add(left_out_T, whole_T)

    @staticmethod
    def _quality(predictor: Predictor, counts: list[int], missed: Missed) -> PredictorQuality:
        active, predicted, hits, entries = counts
        return PredictorQuality(
            rank=predictor.rank,
            cut=predictor.cut,
            recall=hits / active if active else float("nan"),
            predicted_sparsity=1 - predicted / entries,
            sparsity=1 - active / entries,
            missed=missed.share(),
        )
