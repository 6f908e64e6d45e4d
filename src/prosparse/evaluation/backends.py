# SPDX-License-Identifier: Apache-2.0
"""How an evaluated model runs: as it is, on the exact sparse path, or by predictors."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from prosparse.errors import UserError
from prosparse.predictors.files import read_predictors
from prosparse.runtime.generate import accelerated_as

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedModel


BACKENDS = ("dense", "sparse", "predicted")


@contextlib.contextmanager
def running_as(
    backend: str, model: PreTrainedModel, predictors: str | Path | None
) -> Iterator[int | None]:
    """Run a model on a backend inside the block.

    Yields:
        The most tokens that one pass may have for the backend to take part; None where any pass is its own.
    """
    with accelerated_as(backend, model, predictors) as accelerated:
        yield None if accelerated is None else accelerated.max_tokens


def check_backends(names: list[str], predictors: str | Path | None) -> None:
    """Raise unless every name is that of a backend, and predictors are there where they are needed.

    Raises:
        UserError: One is not, or they are not.
    """
    for name in names:
        if name not in BACKENDS:
            raise UserError(f"--backend must be one of {', '.join(BACKENDS)}; found '{name}'.")
    if ("predicted" in names) != (predictors is not None):
        raise UserError("--backend predicted and --predictors go together: give both or neither.")
    if predictors is not None:
        read_predictors(predictors)
