# SPDX-License-Identifier: Apache-2.0
"""A model with its weak neurons switched off, against itself as it is, on the same windows."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from prosparse.errors import UserError
from prosparse.measurement.cett import Calibration
from prosparse.measurement.perplexity import WindowMeasure, paired_increase
from prosparse.measurement.pruning import keep_top, prune_below, prune_contributions
from prosparse.model.ffn import ffns
from prosparse.records.metric import MetricMeasure, MetricName, MetricPoint
from prosparse.records.sparsity import pool_layer_sparsity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.measurement.activity import ActivityMeter
    from prosparse.measurement.passes import Passes

CALIBRATION_TOKENS = 4096
"""Tokens, spread over the data sets, that thresholds of CETT are found on; one window at least."""
SEARCH_STEPS = 12
CLOSE_ENOUGH = 0.05
"""A search ends when the increase is below the budget by less than this share of it."""
NARROW_ENOUGH = 0.01
"""A search ends when the edge of the budget is known to this share of its CETT."""
COMPARED: tuple[tuple[MetricName, tuple[float, ...]], ...] = (
    ("fat", (0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3)),
    ("topk", (0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.1)),
    ("cett", (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)),
)
"""Settings of `compare`, by rising sparsity; each metric ends at the first that ruins the model."""
RUINED = 4.0
"""Relative increase of perplexity from which on nothing is to be learned from more sparsity."""

OPTIONS = {"fat": "epsilon", "topk": "k", "cett": "cett"}
CHOICES = (*OPTIONS, "cett-ppl", "compare")


def check_metric(
    metric: str | None,
    epsilon: float | None,
    k: float | None,
    cett: float | None,
    max_perplexity_increase: float,
) -> float | None:
    """Return the setting of a metric; None when it has none to give.

    Raises:
        UserError: An unknown metric, a setting that is missing, out of range or of another metric.
    """
    if metric is not None and metric not in CHOICES:
        raise UserError(f"--metric must be one of {', '.join(CHOICES)}; found '{metric}'.")
    settings = {"epsilon": epsilon, "k": k, "cett": cett}
    wanted = OPTIONS.get(metric or "")
    for option, value in settings.items():
        if value is not None and option != wanted:
            raise UserError(f"--{option} {value} does not apply to --metric {metric or '(none)'}.")
    if metric == "cett-ppl" and not (
        math.isfinite(max_perplexity_increase) and max_perplexity_increase > 0
    ):
        raise UserError(f"--max-perplexity-increase must be > 0; found {max_perplexity_increase}.")
    if wanted is None:
        return None
    setting = settings[wanted]
    if setting is None:
        raise UserError(f"--metric {metric} needs --{wanted}.")
    top = {"fat": math.inf, "topk": 1.0, "cett": 1.0}[str(metric)]
    if not (0 < setting <= top and math.isfinite(setting)):
        bound = "a finite number above 0" if top == math.inf else "above 0 and at most 1"
        raise UserError(f"--{wanted} must be {bound}; found {setting}.")
    return setting


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured under a metric."""

    measured: list[WindowMeasure]
    metric: MetricMeasure | None = None
    points: tuple[MetricPoint, ...] = ()


def measure_under(
    passes: Passes,
    metric: str | None,
    setting: float | None,
    max_perplexity_increase: float,
    meters: Sequence[ActivityMeter] = (),
) -> Outcome:
    """Return the model's measurement with the weak neurons of a metric switched off.

    Args:
        passes: The model and the data.
        metric: One of `CHOICES`, or None to leave the model as it is.
        setting: As `check_metric` returned it.
        max_perplexity_increase: The budget of `cett-ppl`.
        meters: Count the distributions of what is returned; see `Passes.run`.

    Raises:
        UserError: The model's loss as it is is no finite number.
    """
    if metric is None:
        return Outcome(passes.run("", meters))
    comparison = Comparison(passes)
    if metric == "compare":
        measured = passes.run("distributions: ", meters) if meters else comparison.dense
        return Outcome(measured, points=comparison.compare())
    if metric != "cett-ppl":
        name, budget, is_met, points = cast("MetricName", metric), None, True, ()
    else:
        name, budget = "cett", max_perplexity_increase
        setting, is_met, points = comparison.search(budget)
    assert setting is not None  # check_metric saw to it
    with comparison.prune(name, setting):
        measured = passes.run(f"{name} {setting:g}: ", meters)
    point = comparison.judge(name, setting, measured)
    return Outcome(measured, comparison.summary(point, budget, is_met), points)


class Comparison:
    """Measures settings of the metrics on a model.

    Args:
        passes: The model and the data to measure on.

    Raises:
        UserError: The model's loss as it is is no finite number.
    """

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._ffns = ffns(passes.model)
        self._found: Calibration | None = None
        self.dense = passes.run("as it is: ")
        for measured in self.dense:
            if not measured.loss_W.isfinite().all():
                raise UserError(
                    f"The model's loss on '{measured.windows.name}' is not a finite number as it is, "
                    "so no metric can be judged by it; look for NaN in its weights."
                )

    def prune(self, metric: MetricName, setting: float) -> contextlib.AbstractContextManager[None]:
        """Return a block in which the weak neurons of a setting are switched off."""
        if metric == "fat":
            return prune_below(self._ffns, setting)
        if metric == "topk":
            return keep_top(self._ffns, setting)
        thresholds, _ = self._calibration.thresholds(setting)
        return prune_contributions(self._ffns, thresholds)

    def point(self, metric: MetricName, setting: float) -> MetricPoint:
        """Return what a setting gives and costs."""
        with self.prune(metric, setting):
            measured = self._passes.run(f"{metric} {setting:g}: ")
        return self.judge(metric, setting, measured)

    def judge(
        self, metric: MetricName, setting: float, measured: Sequence[WindowMeasure]
    ) -> MetricPoint:
        """Return what a setting gives and costs, from its own passes over the same windows."""
        increase, stderr = paired_increase(
            [m.loss_W for m in measured], [d.loss_W for d in self.dense]
        )
        layers = pool_layer_sparsity(tuple(m.summary() for m in measured))
        loss = sum(m.loss_W.mean().item() for m in measured) / len(measured)
        return MetricPoint(
            metric=metric,
            setting=setting,
            sparsity=sum(layers) / len(layers),
            layer_sparsity=layers,
            perplexity=math.inf if loss > 700 else math.exp(loss),
            perplexity_increase=increase,
            perplexity_increase_stderr=stderr,
        )

    def compare(self) -> tuple[MetricPoint, ...]:
        """Return points of all three metrics, for perplexity against sparsity."""
        points = []
        for metric, settings in COMPARED:
            for setting in settings:
                points.append(self.point(metric, setting))
                if not points[-1].perplexity_increase < RUINED:
                    break
        return tuple(points)

    def search(self, max_increase: float) -> tuple[float, bool, tuple[MetricPoint, ...]]:
        """Return the largest CETT within a budget of perplexity, by bisection (CETT-PPL-p%).

        Returns:
            The CETT (0 when none was within), whether the budget's edge was found, and every
            point tried.
        """
        low, high, points = 0.0, 1.0, []
        for _ in range(SEARCH_STEPS):
            point = self.point("cett", (low + high) / 2)
            points.append(point)
            if point.perplexity_increase <= max_increase:
                low = point.setting
                if point.perplexity_increase >= (1 - CLOSE_ENOUGH) * max_increase:
                    break
            else:
                high = point.setting
            if high - low < NARROW_ENOUGH * high:
                break
        return low, low > 0 and high < 1, tuple(points)

    def summary(
        self, point: MetricPoint, max_increase: float | None, is_met: bool
    ) -> MetricMeasure:
        """Return the record of the setting that was chosen."""
        thresholds, errors, num_tokens = [], [], 0
        if point.metric == "cett":
            thresholds, errors = self._calibration.thresholds(point.setting)
            num_tokens = self._calibration.num_tokens
        return MetricMeasure(
            point=point,
            dense_perplexity=tuple(d.summary().perplexity for d in self.dense),
            layer_thresholds=tuple(thresholds),
            layer_errors=tuple(errors),
            calibration_tokens=num_tokens,
            max_perplexity_increase=max_increase,
            is_met=is_met,
        )

    @property
    def _calibration(self) -> Calibration:
        if self._found is None:
            model, held_out = self._passes.model, self._passes.held_out
            length = held_out[0].ids_WS.shape[1]
            each = max(1, CALIBRATION_TOKENS // (length * len(held_out)))
            batches = [windows.ids_WS[:each] for windows in held_out]
            self._found = Calibration(model, self._ffns, batches, self._passes.precision)
        return self._found
