# SPDX-License-Identifier: Apache-2.0
"""Step 3 of ProSparse: how far can the activation threshold be shifted (Eq. 3, Appendix O)?

The paper tries a few thresholds and picks one by eye. `sweep` measures a list of them; `find_edge`
looks for the edge of the budget along any family of thresholds that one number makes more severe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prosparse.errors import UserError
from prosparse.model.relufy import activation_of
from prosparse.records.threshold import Method, ThresholdCandidate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prosparse.thresholds.judge import Judge

METHODS: tuple[Method, ...] = ("fixed", "per-layer", "cett")
CHOICES = (*METHODS, "all")
SEARCH_STEPS = 12
CLOSE_ENOUGH = 0.05
"""A search ends when the highest increase is below the budget by less than this share of it, or by less
than half the increase's standard error."""
NARROW_ENOUGH = 0.01
"""A search ends when the edge of the budget is known to this share of its setting."""
FARTHEST_STEP = 5.0
"""Factor by which the next setting may differ from the last while only one side is known."""


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


def check_method(method: str, max_perplexity_increase: float) -> tuple[Method, ...]:
    """Return the methods to try.

    Raises:
        UserError: An unknown method, or a budget out of range.
    """
    if method not in CHOICES:
        raise UserError(f"--method must be one of {', '.join(CHOICES)}; found '{method}'.")
    if not max_perplexity_increase >= 0:
        raise UserError(f"--max-perplexity-increase must be >= 0; found {max_perplexity_increase}.")
    if method != "fixed" and not 0 < max_perplexity_increase < math.inf:
        raise UserError(
            f"--method {method} looks for the edge of a budget: --max-perplexity-increase must be a "
            f"finite number above 0; found {max_perplexity_increase}."
        )
    return METHODS if method == "all" else tuple(m for m in METHODS if m == method)


def refuse_dense(model: PreTrainedModel) -> None:
    """Raise unless the model's activation is ReLU or FATReLU.

    Raises:
        UserError: It is another one, which a threshold would damage instead of shift.
    """
    activation = activation_of(model)
    if activation.name not in ("relu", "fatrelu"):
        raise UserError(
            f"The model's activation function is {activation.name}; a threshold shifts ReLU only. "
            "For thresholds, make it a ReLU model: prosparse relufy, then prosparse train."
        )


def sweep(judge: Judge, candidates: Sequence[float]) -> list[ThresholdCandidate]:
    """Return every candidate for one threshold in all layers, measured.

    Args:
        judge: Measures them.
        candidates: Thresholds above 0, rising.
    """
    return [judge.measure("fixed", t, [t] * judge.num_layers) for t in candidates]


def find_edge(
    judge: Judge,
    method: Method,
    thresholds_at: Callable[[float], Sequence[float]],
    first: float,
    largest: float,
    power: float,
) -> list[ThresholdCandidate]:
    """Return candidates ever closer to the edge of the budget, by rising setting.

    The next setting is where a power law meets the budget, through the two candidates around it once
    there are two, but never outside what is known: above the largest setting within the budget, below
    the smallest over it. It takes perplexity to rise with the setting: where it does not, the edge
    found is one of several.

    Args:
        judge: Measures them; its budget is above 0 and finite.
        method: What the candidates are called.
        thresholds_at: Returns the threshold of each layer, rising with the setting.
        first: The setting to begin with, > 0.
        largest: The setting that ends the search when it is within the budget.
        power: Of the setting that the increase is about proportional to.
    """
    rows: list[ThresholdCandidate] = []
    within: ThresholdCandidate | None = None
    over: ThresholdCandidate | None = None
    setting = min(first, largest)
    for _ in range(SEARCH_STEPS):
        row = judge.measure(method, setting, thresholds_at(setting))
        rows.append(row)
        if row.within_budget:
            within = row
            if _is_close(row, judge.max_increase) or setting >= largest:
                break
        else:
            over = row
        low = 0.0 if within is None else within.threshold
        high = math.inf if over is None else over.threshold
        if high - low < NARROW_ENOUGH * high:
            break
        if within is not None and over is not None:
            power = _power(within, over, power)
        setting = min(_next(row, judge.max_increase, low, high, power), largest)
    return sorted(rows, key=lambda row: row.threshold)


def _is_close(row: ThresholdCandidate, max_increase: float) -> bool:
    """Return whether a candidate is so near below the budget that going on would chase noise."""
    noise = row.perplexity_increase_stderr
    left = max(CLOSE_ENOUGH * max_increase, 0.0 if math.isnan(noise) else noise / 2)
    # However little is known of it, a candidate that spends under half of the budget is not close.
    return row.highest_increase >= max_increase - min(left, max_increase / 2)


def _power(within: ThresholdCandidate, over: ThresholdCandidate, otherwise: float) -> float:
    """Return the power of the law through two candidates, if there is one."""
    low, high = within.highest_increase, over.highest_increase
    if not 0 < low < high < math.inf:
        return otherwise
    return math.log(high / low) / math.log(over.threshold / within.threshold)


def _next(
    row: ThresholdCandidate, max_increase: float, low: float, high: float, power: float
) -> float:
    increase = row.highest_increase
    factor = FARTHEST_STEP if increase <= 0 else 1 / FARTHEST_STEP  # the latter for NaN, too
    if 0 < increase < math.inf:
        wanted = (0.98 * max_increase / increase) ** (1 / power)  # just below the edge
        factor = min(max(wanted, 1 / FARTHEST_STEP), FARTHEST_STEP)
    guess = row.threshold * factor
    if high == math.inf:
        return max(guess, 1.02 * low)
    if not low < guess < high:
        return (low + high) / 2
    # A tenth of the bracket at least, so that a law that does not hold cannot stall the search.
    margin = (high - low) / 10
    return min(max(guess, low + margin), high - margin)


def choose(rows: Sequence[ThresholdCandidate]) -> ThresholdCandidate:
    """Return the largest setting within the budget of each method, and of those the sparsest.

    The unshifted model when no candidate is within.
    """
    return max(chosen_of_methods(rows), key=lambda row: row.sparsity)


def chosen_of_methods(rows: Sequence[ThresholdCandidate]) -> list[ThresholdCandidate]:
    """Return each method's largest setting within the budget; the first row for one that has none."""
    within: dict[Method, ThresholdCandidate] = {}
    for row in rows:
        best = within.get(row.method)
        if row.within_budget and (best is None or row.threshold > best.threshold):
            within[row.method] = row
    return list(within.values())
