# SPDX-License-Identifier: Apache-2.0
"""Step 3 of ProSparse: how far can the activation threshold be shifted (Eq. 3, Appendix O)?

The paper tries a few thresholds and picks one by eye. Here every candidate is run on the same
held-out windows as the unshifted model, so that the difference of two losses is known far better
than either loss: its standard error comes from the paired differences of windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prosparse.errors import UserError
from prosparse.measurement.perplexity import (
    WindowMeasure,
    Windows,
    measure_windows,
    paired_increase,
)
from prosparse.model.relufy import activation_of, relufy_in_place
from prosparse.records.sparsity import Activation, pool_layer_sparsity
from prosparse.records.threshold import ThresholdCandidate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OnCandidate = Callable[[ThresholdCandidate], None]


def check_candidates(candidates: Sequence[float]) -> tuple[float, ...]:
    """Return the candidates by rising threshold, each once.

    Raises:
        UserError: There is none, or one is not a finite number above 0.
    """
    if not candidates:
        raise UserError("--candidates is empty; give thresholds such as 0.005,0.01,0.02.")
    for threshold in candidates:
        if not (math.isfinite(threshold) and threshold > 0):
            raise UserError(f"--candidates must be numbers above 0; found {threshold}.")
    return tuple(sorted(set(candidates)))


def apply_threshold(model: PreTrainedModel, threshold: float) -> None:
    """Make a ReLU or FATReLU model use FATReLU with `threshold`, or plain ReLU at 0."""
    shifted = Activation("fatrelu", threshold) if threshold > 0 else Activation("relu")
    relufy_in_place(model, shifted)


def refuse_dense(model: PreTrainedModel) -> None:
    """Raise unless the model's activation is ReLU or FATReLU.

    Raises:
        UserError: It is another one, which a threshold would damage instead of shift.
    """
    activation = activation_of(model)
    if activation.name not in ("relu", "fatrelu"):
        raise UserError(
            f"The model's activation function is {activation.name}; a threshold shifts ReLU only. "
            "Make it a ReLU model first: prosparse relufy, then prosparse train."
        )


def sweep(
    model: PreTrainedModel,
    held_out: Sequence[Windows],
    candidates: Sequence[float],
    max_perplexity_increase: float,
    *,
    precision: str,
    on_candidate: OnCandidate | None = None,
    progress: bool = False,
) -> tuple[ThresholdCandidate, ...]:
    """Return the unshifted model and every candidate, measured on the same windows.

    The model is left with plain ReLU.

    Args:
        model: A ReLU or FATReLU model.
        held_out: What to measure on.
        candidates: Thresholds above 0, rising.
        max_perplexity_increase: The budget that `within_budget` is judged by.
        precision: `float32` or `bfloat16`.
        on_candidate: Called with each candidate as it is measured.
        progress: Show a progress bar for each measurement.
    """
    baseline: list[WindowMeasure] = []
    rows = []
    for threshold in (0.0, *candidates):
        apply_threshold(model, threshold)
        measured = [
            measure_windows(
                model,
                windows,
                precision=precision,
                progress=f"threshold {threshold:g}: {windows.name}" if progress else None,
            )
            for windows in held_out
        ]
        baseline = baseline or measured
        row = _candidate(threshold, measured, baseline, max_perplexity_increase)
        rows.append(row)
        if on_candidate is not None:
            on_candidate(row)
    apply_threshold(model, 0.0)
    return tuple(rows)


def choose(rows: Sequence[ThresholdCandidate]) -> float:
    """Return the largest threshold within the budget; 0 (plain ReLU) when no candidate is."""
    return max(row.threshold for row in rows if row.within_budget)


def _candidate(
    threshold: float,
    measured: Sequence[WindowMeasure],
    baseline: Sequence[WindowMeasure],
    max_perplexity_increase: float,
) -> ThresholdCandidate:
    increase, stderr = paired_increase([m.loss_W for m in measured], [b.loss_W for b in baseline])
    measures = tuple(m.summary() for m in measured)
    layers = pool_layer_sparsity(measures)
    return ThresholdCandidate(
        threshold=threshold,
        sparsity=sum(layers) / len(layers),
        layer_sparsity=layers,
        data=measures,
        perplexity_increase=increase,
        perplexity_increase_stderr=stderr,
        within_budget=threshold == 0 or increase <= max_perplexity_increase,
    )
