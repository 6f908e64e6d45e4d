# SPDX-License-Identifier: Apache-2.0
"""The fit itself: starts of all layers, their ranks, training, their cuts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tqdm import tqdm

from prosparse.model.ffn import ffns
from prosparse.model.ffn_inputs import norm_of
from prosparse.predictors.choice import choose, pareto_front
from prosparse.predictors.cost import FFNTimer
from prosparse.predictors.fitting import FitOptions, fit_layer
from prosparse.predictors.folding import fold_cut
from prosparse.predictors.norms import rms_gain
from prosparse.predictors.points import CUTS, points_at, recall_cut, with_times
from prosparse.predictors.predictor import Predictor
from prosparse.predictors.quality import qualities
from prosparse.predictors.svd import narrowed, second_moments, svd_start
from prosparse.records.predictor import FittedLayer, PredictorPoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prosparse.predictors.options import ChoiceOptions
    from prosparse.predictors.pairs import Pairs
    from prosparse.predictors.workspace import FitWorkspace

TRIAL_ROWS = 65536
"""Rows of the one epoch after which ranks are compared."""


class Fit:
    """Predictors for all layers of a model, from its pairs.

    Args:
        model: The model.
        pairs: Of all its layers.
        workspace: Keeps layers that are done, and the ranks.
        choice: How rank and cut are chosen.
        training: How layers are trained.
        progress: Show progress bars.
    """

    exact_us: float | None = None
    """Mean time of an exact FFN; None where nothing was timed."""
    start_seconds = 0.0
    fit_seconds = 0.0

    def __init__(
        self,
        model: PreTrainedModel,
        pairs: Pairs,
        workspace: FitWorkspace,
        choice: ChoiceOptions,
        training: FitOptions,
        progress: bool,
    ) -> None:
        self._model, self._ffns = model, ffns(model)
        self._device = model.device
        self._pairs, self._workspace = pairs, workspace
        self._choice, self._training, self._progress = choice, training, progress
        self._timer: FFNTimer | None = None
        self._clock = time.monotonic()

    def run(self) -> tuple[list[Predictor], tuple[FittedLayer, ...]]:
        """Return the predictors with their cuts, and what the record says of them."""
        clock = time.monotonic()
        starts = self._starts()
        self.start_seconds = time.monotonic() - clock
        self._clock = time.monotonic()
        if self._choice.is_timed:
            held_out = [self._pairs.inputs(ffn.layer, train=False) for ffn in self._ffns]
            self._timer = FFNTimer(self._ffns, held_out)
            exact = self._timer.exact_us()
            self.exact_us = sum(exact) / len(exact)
        ranks = self._ranks(starts)
        starts = [narrowed(start, rank) for start, rank in zip(starts, ranks, strict=True)]
        trained, epochs = self._trained(starts)
        chosen, fronts = self._cuts(trained)
        predictors = [Predictor(p.fc1, p.fc2, c.cut) for p, c in zip(trained, chosen, strict=True)]
        if self._choice.zero_cuts:
            predictors, chosen = self._folded(predictors, chosen)
        layers = tuple(
            self._in_record(layer, predictors[layer], chosen[layer], starts[layer], *of_layer)
            for layer, of_layer in enumerate(zip(epochs, fronts, strict=True))
        )
        self._note_time()
        return predictors, layers

    def _note_time(self) -> None:
        """Count the time since the last call, so that a resume knows what was taken before it."""
        now = time.monotonic()
        self.fit_seconds = self._workspace.add_seconds("fitting", now - self._clock)
        self._clock = now

    def _starts(self) -> list[Predictor]:
        rank = self._choice.ranks(self._ffns[0].d_model)[-1]
        starts = []
        for ffn in tqdm(self._ffns, "SVD", unit="layer", disable=not self._progress, leave=False):
            weights = ffn.weights()
            gate = weights.get("gate_proj", weights["up_proj"])
            moments = second_moments(self._pairs.inputs(ffn.layer, train=True), self._device)
            if self._pairs.layout.reads == "residual":
                norm = norm_of(self._model, ffn)
                gain_D = None if norm is None else rms_gain(norm, ffn.d_model)
                gate = gate if gain_D is None else gate * gain_D.to(gate)
            starts.append(svd_start(gate, moments, rank))
        return starts

    def _ranks(self, starts: Sequence[Predictor]) -> list[int]:
        ranks = self._choice.ranks(self._ffns[0].d_model)
        known = self._workspace.read("ranks")
        if known is not None:
            return known
        if len(ranks) == 1:
            found = [ranks[0]] * len(starts)
        else:
            candidates: list[list[PredictorPoint]] = [[] for _ in starts]
            for rank in ranks:
                tried = self._tried([narrowed(start, rank) for start in starts])
                for of_layer, more in zip(candidates, self._timed_points(tried), strict=True):
                    of_layer += more
            found = [point.rank for point in choose(candidates, self._choice.max_missed)]
        self._workspace.write("ranks", found)
        self._note_time()
        return found

    def _tried(self, starts: Sequence[Predictor]) -> Sequence[Predictor]:
        if self._training.epochs == 0:
            return starts
        short = replace(self._training, epochs=1, most_rows=TRIAL_ROWS)
        with self._bar(f"rank {starts[0].rank}", short) as bar:
            return [
                fit_layer(start, self._pairs, layer, short, bar.update)[0]
                for layer, start in enumerate(starts)
            ]

    def _trained(self, starts: Sequence[Predictor]) -> tuple[list[Predictor], list[int]]:
        trained, epochs = [], []
        with self._bar("training", self._training) as bar:
            for layer, start in enumerate(starts):
                known = self._workspace.load_layer(layer, self._device)
                if known is None:
                    predictor, _, epoch = fit_layer(
                        start, self._pairs, layer, self._training, bar.update
                    )
                    self._workspace.save_layer(layer, predictor, epoch)
                    self._note_time()
                    known = predictor, epoch
                else:
                    bar.update(self._training.epochs * self._num_rows(self._training))
                trained.append(known[0])
                epochs.append(known[1])
        return trained, epochs

    def _cuts(
        self, trained: Sequence[Predictor]
    ) -> tuple[list[PredictorPoint], list[list[PredictorPoint]]]:
        if self._choice.chooses_cut:
            timed = self._timed_points(trained)
            fronts = [pareto_front(points) for points in timed]
            return choose(timed, self._choice.max_missed), fronts
        cuts = [self._given_cut(layer, predictor) for layer, predictor in enumerate(trained)]
        points = [
            self._points(layer, predictor, [cut])
            for layer, (predictor, cut) in enumerate(zip(trained, cuts, strict=True))
        ]
        return [of_layer[0] for of_layer in points], [[] for _ in trained]

    def _folded(
        self, predictors: Sequence[Predictor], chosen: Sequence[PredictorPoint]
    ) -> tuple[list[Predictor], list[PredictorPoint]]:
        """Return predictors with a cut of 0 in place of their own, and what those give."""
        folded, points = [], []
        for layer, (predictor, point) in enumerate(zip(predictors, chosen, strict=True)):
            folded.append(fold_cut(predictor, self._pairs.inputs(layer, train=True)))
            (found,) = self._points(layer, folded[-1], [0.0])
            points.append(replace(found, us=point.us))
        return folded, points

    def _given_cut(self, layer: int, predictor: Predictor) -> float:
        if self._choice.recall is None:
            assert self._choice.cut is not None
            return self._choice.cut
        return recall_cut(predictor, self._pairs, layer, self._choice.recall)

    def _timed_points(self, predictors: Sequence[Predictor]) -> list[list[PredictorPoint]]:
        assert self._timer is not None
        points = [self._points(layer, p, CUTS) for layer, p in enumerate(predictors)]
        return with_times(predictors, points, self._timer)

    def _points(
        self, layer: int, predictor: Predictor, cuts: Sequence[float]
    ) -> list[PredictorPoint]:
        down_projT = self._ffns[layer].weights()["down_proj"].T
        return points_at(predictor, self._pairs, layer, down_projT, cuts)

    def _in_record(
        self,
        layer: int,
        predictor: Predictor,
        point: PredictorPoint,
        start: Predictor,
        epochs: int,
        front: Sequence[PredictorPoint],
    ) -> FittedLayer:
        """Judge on all validation rows what was chosen on some, and the start at the same recall."""
        held_out = (
            self._pairs.inputs(layer, train=False),
            self._pairs.shares(layer, train=False),
        )
        (found,) = qualities(predictor, *held_out, [point.cut])
        chosen = replace(point, recall=found.recall, predicted_sparsity=found.predicted_sparsity)
        (of_start,) = self._points(
            layer, start, [recall_cut(start, self._pairs, layer, found.recall)]
        )
        return FittedLayer(found.sparsity, chosen, of_start, epochs, tuple(front))

    def _bar(self, label: str, options: FitOptions) -> tqdm:
        total = len(self._ffns) * options.epochs * self._num_rows(options)
        return tqdm(total=total, unit="row", unit_scale=True, desc=label,
                    disable=not self._progress, leave=False)  # fmt: skip

    def _num_rows(self, options: FitOptions) -> int:
        return min(self._pairs.layout.num_train, options.most_rows or self._pairs.layout.num_train)
