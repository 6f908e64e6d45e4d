# SPDX-License-Identifier: Apache-2.0
"""The outcome of a search in words: what did not go as wished, and what the model card says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.threshold import ThresholdCandidate, ThresholdRecord


def notes_on(
    rows: Sequence[ThresholdCandidate],
    best: ThresholdCandidate,
    check: Sequence[ThresholdCandidate],
    max_increase: float,
    silent_layers: Sequence[int],
) -> tuple[str, ...]:
    """Return what a user must know of the outcome, a sentence each; none when all went well."""
    notes = []
    budget = f"{max_increase:.2%}"
    if best.threshold == 0:
        least = min(rows[1:], key=lambda row: row.perplexity_increase)
        notes.append(
            f"No threshold tried stays within the budget of {budget} with 95 % confidence, so the model "
            "keeps plain ReLU; "
            f"the cheapest tried ({in_words(least)}) costs {_cost(least)} for "
            f"{least.sparsity:.2%} sparsity."
        )
    elif all(row.within_budget for row in rows if row.method == best.method):
        notes.append(
            f"Every threshold tried is within the budget of {budget}: it may allow more than "
            f"{in_words(best)}."
        )
    if best.threshold > 0 and not best.perplexity_increase_stderr <= max_increase / 4:
        notes.append(
            f"The increase is known to ± {best.perplexity_increase_stderr:.2%} only, too little for a "
            f"budget of {budget}: choose by more --tokens, or the choice follows noise."
        )
    if silent_layers:
        layers = ", ".join(map(str, silent_layers))
        notes.append(
            f"No neuron of layer {layers} was ever active on the calibration text, so there is "
            "nothing to choose a threshold by: it is 0 there."
        )
    if not check:
        notes.append(
            "The choice was not checked: no data set has two windows of text beyond what it was "
            "chosen by; give less --tokens, more data, or --check-data."
        )
    for row in check:
        is_chosen = (row.threshold, row.method) == (best.threshold, best.method)
        if is_chosen and not row.within_budget:
            notes.append(
                f"On text that it was not chosen by, {in_words(row)} costs {_cost(row)} perplexity, "
                f"over the budget of {budget}: choose by more --tokens, or ask for less."
            )
    return tuple(notes)


def in_words(row: ThresholdCandidate) -> str:
    """Return a candidate's thresholds in words, e.g. `t = 0.02` or `per-layer t, 0.004 to 0.12`."""
    if row.method == "fixed":
        return f"t = {row.threshold:.4g}"
    low, high = min(row.layer_thresholds), max(row.layer_thresholds)
    return f"{row.method} t, {low:.3g} to {high:.3g}"


def card_notes(record: ThresholdRecord) -> list[str]:
    """Return what the model card says about the threshold."""
    if record.chosen == 0:
        return [
            "No threshold tried stayed within its quality budget; the activation is plain ReLU."
        ]
    chosen, checked = record.chosen_candidate, record.checked
    what = f"threshold to {record.chosen:g}"
    if chosen.method != "fixed":
        low, high = min(chosen.layer_thresholds), max(chosen.layer_thresholds)
        what = f"thresholds of its layers to {low:.3g} up to {high:.3g} (method {chosen.method})"
    notes = [
        f"Shifting the {what} raised activation sparsity from "
        f"{record.candidates[0].sparsity:.4f} to {chosen.sparsity:.4f} (mean over layers) and "
        f"perplexity by {_cost(chosen)}, on {_data(chosen)}."
    ]
    if checked is not None:
        notes.append(
            f"On text that it was not chosen by ({_data(checked)}): sparsity {checked.sparsity:.4f}, "
            f"perplexity {_cost(checked)} over plain ReLU, "
            f"{'within' if checked.within_budget else 'over'} the budget of "
            f"{record.max_perplexity_increase:.2%}."
        )
    return notes


def _cost(row: ThresholdCandidate) -> str:
    return f"{row.perplexity_increase:.2%} ± {row.perplexity_increase_stderr:.2%}"


def _data(row: ThresholdCandidate) -> str:
    return ", ".join(f"{m.num_tokens:,} tokens of {m.data}" for m in row.data)
