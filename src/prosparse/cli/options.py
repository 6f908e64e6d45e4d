# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, and how their values are read."""

from __future__ import annotations

from typing import Annotated

import typer

from prosparse.errors import UserError

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Local folder, `.gguf` file or hub id.")
]
RecipeFile = Annotated[str, typer.Argument(metavar="RECIPE.yaml", help="The recipe file.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Change one value of the recipe; repeatable."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with an unfinished run, if there is one.")
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="NAME=PATH",
        help="Held-out data: JSONL (plain, .xz, .zst, .gz), text, Parquet or a hub id; repeatable.",
    ),
]
Tokens = Annotated[int, typer.Option(help="Tokens of each data set to run.")]
ContextLength = Annotated[int, typer.Option(help="Tokens in one window.")]
Precision = Annotated[
    str,
    typer.Option(
        metavar="auto|float32|bfloat16", help="Of matrix products; auto: bfloat16 where it is fast."
    ),
]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, ...")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.")
]


def parse_data(items: list[str] | None, option: str = "--data") -> dict[str, str]:
    """Return {name: path} of `NAME=PATH` items.

    Raises:
        UserError: An item has another form, or a name comes twice.
    """
    data: dict[str, str] = {}
    for item in items or []:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise UserError(f"{option} takes NAME=PATH, such as prose=valid.jsonl; found '{item}'.")
        if name in data:
            raise UserError(f"{option} names '{name}' twice; give each data set its own name.")
        data[name] = path
    return data


def parse_numbers(text: str, option: str) -> list[float]:
    """Return the numbers of a comma-separated list.

    Raises:
        UserError: Something in it is not a number.
    """
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"{option} takes numbers with commas between; found '{text}'.") from None
