# SPDX-License-Identifier: Apache-2.0
"""What a published format is: a config that transformers does not know, said in words that it does.

All of these models are a stock architecture with another FFN activation, under other names. Their
tensors have the names and shapes of the stock class, so a format is no more than a translation of
config.json, from which transformers then builds, and afterwards saves, its own class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Config = dict[str, Any]
"""The content of a config.json."""


class Unfit(Exception):
    """A config is nearly of a format; the message says what is wrong, to follow "but"."""


@dataclass(frozen=True, slots=True)
class Format:
    """One published format."""

    publisher: str
    """Who publishes which models in it."""
    model_type: str
    """`model_type` of its configs; `*` stands for anything."""
    marks: frozenset[str]
    """Keys that its configs have and those of stock models do not."""
    stock: Callable[[Config], Config]
    """Returns the stock config of the same model; raises `Unfit`."""


def need(config: Config, keys: Iterable[str]) -> None:
    """Raise unless a config has all of these keys.

    Raises:
        Unfit: It lacks one.
    """
    missing = [key for key in keys if config.get(key) is None]
    if missing:
        raise Unfit(f"it lacks {', '.join(missing)}")


def refuse(config: Config, keys: Iterable[str], why: str) -> None:
    """Raise if a config sets one of these keys to anything but null, false, zero or nothing.

    Raises:
        Unfit: It sets one.
    """
    for key in keys:
        if config.get(key):
            raise Unfit(f"it sets {key}, {why}")


def without(config: Config, keys: Iterable[str]) -> Config:
    """Return a copy of a config without these keys."""
    dropped = set(keys)
    return {key: value for key, value in config.items() if key not in dropped}
