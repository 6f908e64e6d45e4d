# SPDX-License-Identifier: Apache-2.0
"""What lambda does to sparsity, simulated: the law of Figure 3 with lag, creep and noise."""

import math
import random
from dataclasses import dataclass

from prosparse.training.controller import SparsityController
from prosparse.training.schedule import Schedule, Stage


@dataclass(frozen=True)
class Plant:
    """A model in training, as the controller sees it; times are shares of the steered stage."""

    base: float = 0.6
    """Sparsity at lambda 0."""
    target: float = 0.89
    target_factor: float = 3.0
    """The lambda that gives the target in the end, without creep."""
    alpha: float = 0.3
    lag: float = 0.05
    second_lag: float = 0.0
    creep: float = 0.0
    """By how much the logarithm of the active share falls of itself during the stage."""
    noise: float = 0.003
    """Standard deviation of a batch's sparsity."""
    excess: float = 0.005
    """Of held-out text over training batches."""
    seed: int = 0


@dataclass(frozen=True)
class Ride:
    """One line for each step of the steered stage."""

    factors: list[float]
    held_out: list[float]
    controller: SparsityController


def ride(plant: Plant, num_steps: int = 400, highest: float = 10.0, every: int = 10) -> Ride:
    """Let a controller steer a plant; held-out sparsity is measured `every`-th of the stage."""
    before = num_steps // 5
    stages = (
        Stage(before // 2, 0),
        Stage(before, 0.1),
        Stage(before + num_steps, highest),
    )
    controller = SparsityController(Schedule(stages), plant.target)
    noise = random.Random(plant.seed)
    b = math.log(1 - plant.base)
    a = (math.log(1 - plant.target) - b) / plant.target_factor**plant.alpha
    first = second = b
    factors, held_out = [0.1], []
    for step in range(1, before + num_steps + 1):
        factor = controller.factor(step)
        first += (b + a * factor**plant.alpha - first) / max(1, plant.lag * num_steps)
        second += (first - second) / max(1, plant.second_lag * num_steps)
        crept = plant.creep * max(0, step - before) / num_steps
        sparsity = 1 - math.exp(second - crept)
        controller.observe(step, sparsity - plant.excess + noise.gauss(0, plant.noise))
        if step >= before:
            if (step - before) % (num_steps // every) == 0:
                controller.correct(sparsity)
            held_out.append(sparsity)
        if step > before:
            factors.append(factor)
    return Ride(factors, held_out, controller)
