# SPDX-License-Identifier: Apache-2.0
"""Recipes from YAML files: what a base recipe adds, what `--set` changes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from prosparse.errors import UserError
from prosparse.records.codec import decode
from prosparse.training.recipe import Recipe

BASE_KEY = "base"


def load_recipe(path: str | Path | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a YAML file.

    Args:
        path: The file; a `Recipe` is returned as it is. Its key `base` may name another file,
            relative to its own folder, that it changes.
        overrides: `key.path=value` each, value in YAML; list items by number
            (`regularization.stages.0.until=10`).

    Raises:
        UserError: The file is missing, is no YAML, or a key or value is wrong.
    """
    if isinstance(path, Recipe):
        if overrides:
            raise UserError(
                "overrides apply to a recipe file; change a Recipe with dataclasses.replace."
            )
        return path
    path = Path(path)
    data = _read(path)
    for override in overrides:
        data = _with_override(data, override)
    return decode(Recipe, data, str(path))


def _read(path: Path, above: tuple[Path, ...] = ()) -> Any:
    """Return the data of a recipe file laid over those of the base that it names, if it does.

    Keys of the file replace keys of the same name in the base; of a section, key by key. A key's
    value, such as all stages or all components, is replaced whole.

    Args:
        path: The file.
        above: Files that led here, each naming the next as its base.
    """
    if path.resolve() in above:
        raise UserError(f"{path} is its own base, by way of {above[-1]}.")
    if not path.is_file():
        by = f", which {above[-1]} names as its base" if above else ""
        raise UserError(f"No recipe at {path}{by}: the file does not exist.")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if not (isinstance(data, dict) and BASE_KEY in data):
        return data
    base = data.pop(BASE_KEY)
    if not isinstance(base, str):
        raise UserError(f"{path}: {BASE_KEY} must be the name of a recipe file; found {base!r}.")
    merged = _read(path.parent / base, (*above, path.resolve()))
    if not isinstance(merged, dict):
        raise UserError(f"{path.parent / base} is no recipe: it must be a mapping.")
    for key, value in data.items():
        is_section = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if is_section else value
    return merged


def _with_override(data: Any, override: str) -> Any:
    key_path, equals, value = override.partition("=")
    if not equals or not key_path:
        raise UserError(f"--set takes key.path=value; found '{override}'.")
    data = copy.deepcopy(data)
    *parents, last = key_path.split(".")
    place = data
    try:
        for key in parents:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[int(key)]
        place[last if isinstance(place, dict) else int(last)] = yaml.safe_load(value)
    except (TypeError, ValueError, IndexError, yaml.YAMLError):
        raise UserError(f"--set {override}: the recipe has no place '{key_path}'.") from None
    return data
