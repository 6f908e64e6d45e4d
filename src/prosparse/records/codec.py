# SPDX-License-Identifier: Apache-2.0
"""Plain data <-> frozen dataclasses, strictly.

Recipes (YAML) and records (JSON) are both trees of frozen dataclasses. `decode` checks every key
and every type on the way in, so that a typing error in a recipe is one sentence at the start and
never a silently ignored setting; `encode` is its inverse.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from prosparse.errors import UserError

T = TypeVar("T")


def encode(value: Any) -> Any:
    """Return `value` as JSON-ready data: dataclasses become dicts, tuples become lists.

    Non-finite floats become the strings "nan", "inf" and "-inf": JSON has no word for them, and
    `decode` reads these back.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def decode(cls: type[T], data: Any, source: str, path: str = "") -> T:
    """Return an instance of the dataclass `cls` built from plain data.

    Args:
        cls: A dataclass; its fields may be dataclasses, tuples, dicts, optionals and literals.
        data: What a YAML or JSON parser returned.
        source: Name of the file, for messages.
        path: Where in the file `data` stands, e.g. `regularization.stages[2]`.

    Raises:
        UserError: An unknown or missing key or a wrong type; names the file, the path, and the
            nearest valid key.
    """
    if not isinstance(data, dict):
        raise UserError(f"{_where(source, path)} must be a mapping, found {_show(data)}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise UserError(
                f"{_where(source, _join(path, key))} is not a known key. {_suggest(key, fields)}"
            )
    hints = get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _decode_value(hints[name], data[name], source, _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{_where(source, path)} lacks the required key '{name}'.")
    try:
        return cls(**values)
    except UserError as error:  # a dataclass's own check: say where it happened
        raise UserError(f"{_where(source, path)}: {error}") from None


def _decode_value(hint: Any, value: Any, source: str, path: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        kinds = [arg for arg in args if arg is not type(None)]
        return _decode_value(_kind_of(value, kinds), value, source, path)
    if origin is typing.Literal:
        if value not in args:
            choices = ", ".join(str(arg) for arg in args)
            raise UserError(
                f"{_where(source, path)} must be one of {choices}; found {_show(value)}."
            )
        return value
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast("type", hint), value, source, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{_where(source, path)} must be a list, found {_show(value)}.")
        return tuple(
            _decode_value(args[0], item, source, f"{path}[{index}]")
            for index, item in enumerate(value)
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{_where(source, path)} must be a mapping, found {_show(value)}.")
        return {
            str(key): _decode_value(args[1], item, source, _join(path, key))
            for key, item in value.items()
        }
    return _decode_scalar(hint, value, source, path)


def _kind_of(value: Any, kinds: list[Any]) -> Any:
    """Return which kind a value is meant as: a list, a word of a Literal, or something else."""
    wanted = {list: tuple, tuple: tuple, str: typing.Literal}.get(type(value))
    others = [kind for kind in kinds if get_origin(kind) not in (tuple, typing.Literal)]
    return next((kind for kind in kinds if get_origin(kind) is wanted), (others or kinds)[-1])


def _decode_scalar(hint: Any, value: Any, source: str, path: str) -> Any:
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        # YAML 1.1 reads 5e-3 (no dot) as a string, and records spell non-finite numbers out.
        try:
            return float(value)
        except ValueError:
            pass
    is_bool_as_int = hint is int and isinstance(value, bool)
    if isinstance(value, hint) and not is_bool_as_int:
        return value
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    raise UserError(
        f"{_where(source, path)} must be {names.get(hint, hint)}; found {_show(value)}."
    )


def _suggest(key: object, fields: dict[str, Any]) -> str:
    near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
    meant = f"Did you mean '{near[0]}'? " if near else ""
    return f"{meant}Valid keys: {', '.join(fields)}."


def _where(source: str, path: str) -> str:
    return f"{source}: {path}" if path else source


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
