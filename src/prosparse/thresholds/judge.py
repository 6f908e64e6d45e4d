# SPDX-License-Identifier: Apache-2.0
"""What thresholds give and what they cost: a model under them against itself under plain ReLU.

Every candidate runs on the same windows as the unshifted model, so that the difference of two
losses is known far better than either loss: its standard error comes from the paired differences.
A choice is the candidate nearest to the edge, so luck would choose too: what is within the budget is so with
95 % confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from prosparse.errors import UserError
from prosparse.measurement.perplexity import WindowMeasure, paired_increase
from prosparse.model.relufy import relufy_in_place
from prosparse.records.sparsity import Activation, pool_layer_sparsity
from prosparse.records.threshold import Method, ThresholdCandidate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prosparse.measurement.passes import Passes

OnCandidate = Callable[[ThresholdCandidate], None]


def apply_thresholds(model: PreTrainedModel, thresholds: Sequence[float]) -> None:
    """Make a ReLU or FATReLU model use FATReLU with a threshold >= 0 for each layer.

    Equal ones become one number in its config, and none above 0 plain ReLU.
    """
    different = set(thresholds)
    if different == {0.0}:
        shifted = Activation("relu")
    elif len(different) == 1:
        shifted = Activation("fatrelu", thresholds[0])
    else:
        shifted = Activation("fatrelu", tuple(thresholds))
    relufy_in_place(model, shifted)


class Judge:
    """Measures thresholds of a model on the same windows as plain ReLU.

    Args:
        passes: A ReLU or FATReLU model and its windows.
        num_layers: Layers of the model.
        max_increase: The budget that candidates are judged by, relative.
        on_candidate: Called with each candidate as it is measured, the unshifted model first.
        is_check: Judge what was chosen on other text: by its increase, not by its highest.

    Raises:
        UserError: The unshifted model's loss is no finite number.
    """

    def __init__(
        self,
        passes: Passes,
        num_layers: int,
        max_increase: float,
        on_candidate: OnCandidate | None = None,
        is_check: bool = False,
    ) -> None:
        self.passes = passes
        self.num_layers = num_layers
        self.max_increase = max_increase
        self._on_candidate = on_candidate
        self._is_check = is_check
        apply_thresholds(passes.model, [0.0] * num_layers)
        self._baseline = passes.run("threshold 0: ")
        for measured in self._baseline:
            if not measured.loss_W.isfinite().all():
                raise UserError(
                    f"The model's loss on '{measured.windows.name}' is not a finite number under "
                    "plain ReLU, so no threshold can be judged; look for NaN in its weights."
                )
        self.baseline = self._row("fixed", 0.0, [0.0] * num_layers, self._baseline)

    def measure(
        self, method: Method, setting: float, thresholds: Sequence[float]
    ) -> ThresholdCandidate:
        """Return what thresholds, one for each layer, give and cost; the model keeps them."""
        apply_thresholds(self.passes.model, thresholds)
        measured = self.passes.run(f"{method} {setting:.3g}: ")
        return self._row(method, setting, thresholds, measured)

    def _row(
        self,
        method: Method,
        setting: float,
        thresholds: Sequence[float],
        measured: Sequence[WindowMeasure],
    ) -> ThresholdCandidate:
        increase, stderr = paired_increase(
            [m.loss_W for m in measured], [b.loss_W for b in self._baseline]
        )
        measures = tuple(m.summary() for m in measured)
        layers = pool_layer_sparsity(measures)
        row = ThresholdCandidate(
            threshold=setting,
            sparsity=sum(layers) / len(layers),
            layer_sparsity=layers,
            data=measures,
            perplexity_increase=increase,
            perplexity_increase_stderr=stderr,
            within_budget=True,
            method=method,
            layer_thresholds=tuple(thresholds),
        )
        judged = increase if self._is_check else row.highest_increase
        row = replace(row, within_budget=setting == 0 or judged <= self.max_increase)
        if self._on_candidate is not None:
            self._on_candidate(row)
        return row
