# SPDX-License-Identifier: Apache-2.0
"""Two models on the same items: which one is better, and how sure that is.

The items are the same, so what both get right or wrong says nothing and only where they differ counts.
The interval is Agresti and Min's for matched proportions (Statistics in Medicine 24, 2005): Wald's, after
half an item is added to each of the four outcomes. It keeps its coverage for few items, and is never of
width zero because no difference was seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prosparse.records.evaluation import ChangedAnswer, Column, PairedDifference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prosparse.evaluation.harness import Item

Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Pairs:
    """Outcomes of one task on items that both models have."""

    num_items: int
    num_better: int
    num_worse: int

    @property
    def difference(self) -> float:
        """Score here minus score there."""
        return (self.num_better - self.num_worse) / self.num_items

    @property
    def adjusted(self) -> tuple[float, float]:
        """Center and variance of the interval."""
        num_items = self.num_items + 2
        difference = self.num_better - self.num_worse
        discordant = self.num_better + self.num_worse + 1
        return difference / num_items, (discordant - difference**2 / num_items) / num_items**2


def pair(here: Sequence[Item], there: Sequence[Item]) -> Pairs | None:
    """Return the outcomes on shared items; None where an item is not simply right or wrong."""
    other = {item.id: item.value for item in there}
    values = [(item.value, other[item.id]) for item in here if item.id in other]
    if not values or any(value not in (0.0, 1.0) for both in values for value in both):
        return None
    return Pairs(
        num_items=len(values),
        num_better=sum(mine > theirs for mine, theirs in values),
        num_worse=sum(mine < theirs for mine, theirs in values),
    )


def differences(
    model: str,
    against: str,
    here: Mapping[str, Sequence[Item]],
    there: Mapping[str, Sequence[Item]],
    columns: Sequence[Column],
) -> list[PairedDifference]:
    """Return the difference on each task and on each column whose tasks all were answered by both."""
    pairs = {task: pair(here[task], there[task]) for task in here if task in there}
    known = {task: outcome for task, outcome in pairs.items() if outcome is not None}
    groups = {task: [outcome] for task, outcome in known.items()}
    for column in columns:
        if len(column.tasks) > 1 and all(task in known for task in column.tasks):
            groups[column.name] = [known[task] for task in column.tasks]
    return [_difference(model, against, name, group) for name, group in groups.items()]


def _difference(model: str, against: str, name: str, group: list[Pairs]) -> PairedDifference:
    adjusted = [pairs.adjusted for pairs in group]
    center = sum(mean for mean, _ in adjusted) / len(group)
    reach = Z_95 * math.sqrt(sum(variance for _, variance in adjusted)) / len(group)
    return PairedDifference(
        model=model,
        against=against,
        name=name,
        num_items=sum(pairs.num_items for pairs in group),
        num_better=sum(pairs.num_better for pairs in group),
        num_worse=sum(pairs.num_worse for pairs in group),
        difference=sum(pairs.difference for pairs in group) / len(group),
        low=max(-1.0, center - reach),
        high=min(1.0, center + reach),
    )


def changed_answers(
    model: str,
    against: str,
    here: Mapping[str, Sequence[Item]],
    there: Mapping[str, Sequence[Item]],
) -> list[ChangedAnswer]:
    """Return the multiple-choice items that two runs of one model answer differently."""
    changed = []
    for task in here:
        others = {item.id: item.told for item in there.get(task, ())}
        for item in here[task]:
            other = others.get(item.id)
            if other is None or "chosen" not in other or item.told["chosen"] == other["chosen"]:
                continue
            changed.append(
                ChangedAnswer(
                    model=model,
                    against=against,
                    task=task,
                    item=item.id,
                    answer=item.told["chosen"],
                    other_answer=other["chosen"],
                    margin=item.told["margin"],
                    other_margin=other["margin"],
                )
            )
    return changed
