# SPDX-License-Identifier: Apache-2.0
"""How an evaluated model runs: as it is, or on the sparse path.

A backend is a context manager that installs itself in a loaded model and yields the most tokens that one
pass may have for it to take part, or None where any pass is its own. Another (predicted sparsity) is
another line of `BACKENDS`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from prosparse.errors import UserError
from prosparse.runtime.accelerate import accelerate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel


@contextlib.contextmanager
def _dense(model: PreTrainedModel) -> Iterator[int | None]:
    yield None


@contextlib.contextmanager
def _sparse(model: PreTrainedModel) -> Iterator[int | None]:
    with accelerate(model) as accelerated:
        yield accelerated.max_tokens


BACKENDS: dict[str, Callable[[PreTrainedModel], AbstractContextManager[int | None]]] = {
    "dense": _dense,
    "sparse": _sparse,
}


def check_backends(names: list[str]) -> None:
    """Raise unless every name is that of a backend.

    Raises:
        UserError: One is not.
    """
    for name in names:
        if name not in BACKENDS:
            raise UserError(f"--backend must be one of {', '.join(BACKENDS)}; found '{name}'.")
