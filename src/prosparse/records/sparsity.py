# SPDX-License-Identifier: Apache-2.0
"""What one set of forward passes measured: activation sparsity and perplexity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prosparse.records.activity import Activity
from prosparse.records.metric import MetricMeasure, MetricPoint
from prosparse.records.provenance import Provenance


@dataclass(frozen=True, slots=True)
class Activation:
    """The FFN activation function of a model, in the words of its `config.json`."""

    name: str
    """`hidden_act`: relu, fatrelu, shifted_relu, or whatever the dense model has (silu, ...)."""
    param: float | tuple[float, ...] | None = None
    """`hidden_act_param`: threshold t of FATReLU, bias b of shifted ReLU; None otherwise. One number
    for all layers, or one for each, lowest first."""


@dataclass(frozen=True, slots=True)
class DataMeasure:
    """Sparsity and perplexity of one model on one named data set."""

    data: str
    """Name of the data set, e.g. `prose`."""
    source: str
    """Path or hub id it was read from."""
    num_tokens: int
    """Tokens fed to the model; the denominator of every sparsity figure."""
    num_predictions: int
    """Tokens predicted; the denominator of the loss (one fewer than fed, for each window)."""
    loss: float
    """Mean negative log-likelihood of a predicted token, in nats."""
    loss_stderr: float
    """Standard error of `loss`, with whole context windows as the independent units."""
    perplexity: float
    """exp(loss)."""
    perplexity_stderr: float
    """perplexity * loss_stderr (first order)."""
    sparsity: float
    """Share of zeros in the intermediate x_1, mean over layers, in [0, 1]."""
    layer_sparsity: tuple[float, ...]
    """The same for each layer, lowest first."""
    activity: Activity | None = None
    """The distributions behind it; None when only sparsity and perplexity were measured."""


@dataclass(frozen=True, slots=True)
class MeasureRecord:
    """The result of `prosparse measure`: one model on some named data sets."""

    model: str
    activation: Activation
    dtype: str
    """Dtype of the forward passes, e.g. `float32`."""
    context_length: int
    """Tokens in one window; perplexities at different context lengths do not compare."""
    sparsity: float
    """Mean over all tokens of all data sets, then over layers, in [0, 1]."""
    layer_sparsity: tuple[float, ...]
    data: tuple[DataMeasure, ...]
    seconds: float
    provenance: Provenance
    activity: Activity | None = None
    """The distributions over all data sets together; None when they were not asked for."""
    metric: MetricMeasure | None = None
    """How weak neurons were told and switched off; None when the model ran as it is."""
    points: tuple[MetricPoint, ...] = ()
    """Other settings of a metric that were measured on the way or for comparison."""
    kind: Literal["measure"] = "measure"


def pool_layer_sparsity(measures: tuple[DataMeasure, ...]) -> tuple[float, ...]:
    """Return each layer's sparsity over all tokens of all data sets (weights: tokens)."""
    total = sum(measure.num_tokens for measure in measures)
    num_layers = len(measures[0].layer_sparsity)
    return tuple(
        sum(m.layer_sparsity[layer] * m.num_tokens for m in measures) / total
        for layer in range(num_layers)
    )
