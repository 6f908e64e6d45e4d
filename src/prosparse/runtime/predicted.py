# SPDX-License-Identifier: Apache-2.0
"""The way through an FFN that a predictor shows: approximate, and reading less than the exact one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prosparse.errors import UserError
from prosparse.kernels.predicted import predicted_ffn
from prosparse.model.quantized import QuantizedLinear
from prosparse.predictors.files import check_fit, read_predictors
from prosparse.predictors.norms import as_reading
from prosparse.runtime.eligible import projections
from prosparse.runtime.sparse_ffn import SparsePath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from prosparse.model.ffn import FFN
    from prosparse.predictors.predictor import Predictor, Predictors


class PredictedPath(SparsePath):
    """The way through one FFN behind its predictor.

    Args:
        ffn: The FFN, its projections laid out by neurons.
        max_tokens: Inputs of more tokens than this go the dense way.
        predictor: Reads the FFN's input.
    """

    def __init__(self, ffn: FFN, max_tokens: int, predictor: Predictor) -> None:
        super().__init__(ffn, max_tokens)
        self._fc1 = predictor.fc1.contiguous()
        self._fc2T = predictor.fc2.T.contiguous()
        self._cut = predictor.cut

    def run(self, x: Tensor) -> Tensor:
        """Return the FFN's output for x [..., D], shaped like x, without neurons not predicted."""
        x_TD, weights = x.reshape(-1, x.shape[-1]), self.weights()
        if self._fc1.device != x.device or self._fc1.dtype != x.dtype:  # the model was moved
            self._fc1, self._fc2T = self._fc1.to(x), self._fc2T.to(x)
        ready = torch.compiler.is_compiling() or not self.renew(weights.gate_proj)
        y_TD = predicted_ffn(x_TD, weights, self._fc1, self._fc2T, self._cut, weights_ready=ready)
        return y_TD.view(x.shape)


def predictors_for(
    model: PreTrainedModel, ffns: Sequence[FFN], predictors: str | Path | Predictors | None
) -> list[Predictor]:
    """Return predictors that can run here, in the dtype and on the device of each FFN.

    Raises:
        UserError: None were given, they are of another model or read what they cannot be given here, or
            an FFN is of a kind that has no predicted way.
    """
    if predictors is None:
        raise UserError(
            "backend 'predicted' needs predictors: the folder that `prosparse predictor fit` wrote."
        )
    if isinstance(predictors, str | Path):
        predictors = read_predictors(predictors)
    check_fit(predictors, ffns)
    for ffn in ffns:
        _refuse_kind(ffn)
    found = as_reading(predictors, "ffn-input", model)
    weights = [ffn.down.get_parameter("weight") for ffn in ffns]
    return [
        layer.to(weight.device, weight.dtype)
        for layer, weight in zip(found.layers, weights, strict=True)
    ]


def _refuse_kind(ffn: FFN) -> None:
    for name, projection in projections(ffn).items():
        if isinstance(projection, QuantizedLinear):
            raise UserError(
                f"{ffn.name}.{name} is quantized, and the predicted way reads plain weights only; "
                "accelerate without predictors."
            )
        if getattr(projection, "bias", None) is not None:
            raise UserError(
                f"{ffn.name}.{name} has a bias, which the predicted way does not know; accelerate "
                "without predictors."
            )
