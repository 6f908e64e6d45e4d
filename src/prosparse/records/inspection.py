# SPDX-License-Identifier: Apache-2.0
"""Single neurons: on which text they fire, how often, and what they write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance
from prosparse.records.sparsity import Activation


@dataclass(frozen=True, slots=True)
class NeuronActivity:
    """How one neuron behaves on one named data set."""

    data: str
    source: str
    """Path or hub id it was read from."""
    num_tokens: int
    """Tokens looked at: all but the first of each window."""
    frequency: float
    """Share of them on which its entry of x_1 is not zero, in [0, 1]."""
    largest: float
    """Largest |x_1|; 0 where it never fires."""


@dataclass(frozen=True, slots=True)
class NeuronContext:
    """A piece of text around a token on which a neuron fires strongly."""

    data: str
    window: int
    """Which window of the data set, from 0."""
    position: int
    """Place of the peak in its window, from 0."""
    peak: int
    """Place of the peak in `tokens`."""
    tokens: tuple[str, ...]
    """The text of each token, in order."""
    values: tuple[float, ...]
    """x_1 of the neuron at each token."""


@dataclass(frozen=True, slots=True)
class TokenWeight:
    """An output token and what a neuron adds to its logit for x_1 = 1, before the last norm."""

    token: str
    weight: float


@dataclass(frozen=True, slots=True)
class NeuronInspection:
    """All that was seen of one neuron."""

    layer: int
    neuron: int
    data: tuple[NeuronActivity, ...]
    contexts: tuple[NeuronContext, ...]
    """By falling |x_1| of the peak, at most one for each window."""
    promotes: tuple[TokenWeight, ...] = ()
    """By falling weight; empty for a model without an output embedding."""
    suppresses: tuple[TokenWeight, ...] = ()
    """By rising weight."""


@dataclass(frozen=True, slots=True)
class InspectionRecord:
    """The result of `prosparse inspect`."""

    model: str
    activation: Activation
    dtype: str
    context_length: int
    neurons: tuple[NeuronInspection, ...]
    seconds: float
    provenance: Provenance
    kind: Literal["inspect"] = "inspect"
