# SPDX-License-Identifier: Apache-2.0
"""Which layers get how few bits: as many as a budget allows, decided by what it does to predictions.

A few matrices of a trained model do not bear rounding: where activations are massive, a handful of
weights decides everything ("super weights"), and looking at weights does not tell which. So each is
measured alone, they are put in order by what each of their weights costs, and the longest beginning of
that order whose cost *together* stays within the budget is taken, found by halving.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prosparse.errors import UserError
from prosparse.model.quantized import matrix_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prosparse.model.quantizing import Place
    from prosparse.quantization.trial import Trial

WIDTHS = (8, 4)
SHARE_OF_8_BITS = 0.2
"""Of the budget at 4 bits: what 8 bits alone may use of it."""
CLOSER_LOOK = 0.01
"""Of the budget: layers that cost less, all their matrices together, are not taken apart."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided and what it was decided by."""

    bits: dict[str, int | None]
    """By dotted name, in the order of the model; None stays as it is."""
    alone: dict[str, dict[int, float]]
    """Divergence in nats per token with this one alone in 8 or 4 bits, where measured."""
    divergence: float
    """With all of them together, on the text that each was measured alone on."""
    cost: float
    """Of all of them together, in nats per token: what had to stay within the budget."""


def plan_bits(
    trial: Trial, found: Sequence[Place], bits: int, max_cost: float, safety: float = 1.0
) -> Plan:
    """Return in how many bits each place is held: `bits`, 8, or None where even 8 cost too much.

    Args:
        trial: The model and the text.
        found: The places to decide on, of that model.
        bits: 8 or 4: the least.
        max_cost: Of all together, in nats per token: by `Trial.together` at 4 bits. At 8 bits it is
            smaller than what the loss of some windows can tell, and the divergence has to do.
        safety: Share of it that the divergence may use at 8 bits.

    Raises:
        UserError: `bits` is neither, or `max_cost` is negative.
    """
    if bits not in WIDTHS:
        raise UserError(f"--bits must be 8 or 4; found {bits}.")
    if not max_cost >= 0:
        raise UserError(f"The budget must be >= 0; found {max_cost:g} nats.")
    alone: dict[str, dict[int, float]] = {place.name: {} for place in found}
    limits = {8: safety * max_cost * (1 if bits == 8 else SHARE_OF_8_BITS), 4: max_cost}
    held: dict[Place, int] = {}
    candidates = list(found)
    for width in WIDTHS[: WIDTHS.index(bits) + 1]:
        order = _by_cost(trial, candidates, width, limits[width], alone)
        candidates = _longest_within(trial, held, order, width, limits[width])
        held |= dict.fromkeys(candidates, width)
    plan = {place.name: held.get(place) for place in found}
    divergence = trial.divergence(held) if held else 0.0
    cost = trial.together(held) if held and bits == 4 else divergence
    return Plan(plan, alone, divergence, cost)


def _by_cost(
    trial: Trial,
    candidates: Sequence[Place],
    width: int,
    limit: float,
    alone: dict[str, dict[int, float]],
) -> list[Place]:
    """Return the places by what each weight in `width` bits costs, the cheapest first."""
    by_layer: dict[int | None, list[Place]] = {}
    for place in candidates:
        by_layer.setdefault(place.layer, []).append(place)
    cost: dict[Place, float] = {}
    for layer, members in by_layer.items():
        together = trial.divergence(dict.fromkeys(members, width)) if layer is not None else limit
        size = sum(num_weights(place) for place in members)
        for place in members:
            if together <= CLOSER_LOOK * limit and layer is not None:
                cost[place] = together / size
                continue
            divergence = trial.divergence({place: width})
            alone[place.name][width] = divergence
            cost[place] = divergence / num_weights(place)
    return sorted(candidates, key=lambda place: cost[place])


def _longest_within(
    trial: Trial, held: Mapping[Place, int], order: Sequence[Place], width: int, limit: float
) -> list[Place]:
    """Return the longest beginning of `order` that can have `width` bits too, with `held`."""

    def fits(count: int) -> bool:
        cost = trial.together if width == 4 else trial.divergence
        return cost({**held, **dict.fromkeys(order[:count], width)}) <= limit

    if fits(len(order)):
        return list(order)
    enough, too_many = 0, len(order)
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        enough, too_many = (middle, too_many) if fits(middle) else (enough, middle)
    return list(order[:enough])


def num_weights(place: Place) -> int:
    """Return how many weights the layer at a place has; it is not quantized."""
    return matrix_rows(place.module, is_down=place.is_down).numel()
