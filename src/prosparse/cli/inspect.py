# SPDX-License-Identifier: Apache-2.0
"""`prosparse inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosparse.cli.options import (
    Data,
    Device,
    Model,
    Overwrite,
    Precision,
    Tokens,
    TrustRemoteCode,
    parse_data,
)

NUM_PRINTED = 5


def inspect(
    model: Model,
    layer: Annotated[int, typer.Option(help="Index of the layer, from 0.")],
    neuron: Annotated[
        list[int] | None,
        typer.Option(
            help="Index of a neuron, from 0; repeatable. None: the five that fire most rarely."
        ),
    ] = None,
    data: Data = None,
    top: Annotated[int, typer.Option(help="Places in the text to show for each neuron.")] = 10,
    tokens: Tokens = 32768,
    context_length: Annotated[int, typer.Option(help="Tokens in one window.")] = 256,
    out: Annotated[str | None, typer.Option(help="Folder for `record.json` and the page.")] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show the text on which single neurons fire most, how often they fire, and what they write.

    A neuron fires on a token when its entry of x_1, the input of `down_proj`, is not zero. With
    `--out` the result is a page: every token shaded by how strongly the neuron fires on it.

    Example: `prosparse inspect runs/demo/model --layer 4 --neuron 17 --data prose=valid.jsonl`
    """
    import prosparse as ps
    from prosparse.reporting.inspection_sections import contexts_as_text, frequency_grid
    from prosparse.reporting.tables import markdown_table

    record = ps.inspect(
        model,
        dict(parse_data(data)),
        layer=layer,
        neurons=neuron or (),
        top=top,
        tokens=tokens,
        context_length=context_length,
        precision=precision,
        device=device,
        out=out,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    for found in record.neurons:
        print(f"Layer {found.layer}, neuron {found.neuron}\n")
        print(markdown_table(frequency_grid(found)) + "\n")
        print("\n".join([*contexts_as_text(found, NUM_PRINTED), ""]))
    if out is not None:
        print(f"Wrote {ps.report(out)}")
