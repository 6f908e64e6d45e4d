# SPDX-License-Identifier: Apache-2.0
"""`prosparse push`."""

from __future__ import annotations

from typing import Annotated

import typer


def push(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Folder of a checkpoint with its card, README.md."),
    ],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="A new repository; left out: the owner's default."),
    ] = None,
    with_record: Annotated[
        bool,
        typer.Option(
            "--with-record", help="With record.json, recipe.yaml, log.jsonl: they name your paths."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that the repository holds.")
    ] = False,
) -> None:
    """Upload a checkpoint to the Hugging Face hub: weights, tokenizer, card, and code to load it.

    Example: `prosparse push runs/demo/model me/smollm2-135m-prosparse`
    """
    import prosparse as ps

    url = ps.push(model, repo, private=private, with_record=with_record, overwrite=overwrite)
    print(f"Uploaded {model} to {url}")
