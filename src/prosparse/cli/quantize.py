# SPDX-License-Identifier: Apache-2.0
"""`prosparse quantize`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosparse.cli.options import (
    ContextLength,
    Data,
    Device,
    Model,
    Overwrite,
    Precision,
    Tokens,
    TrustRemoteCode,
    parse_data,
)


def quantize(
    model: Model,
    out: Annotated[str, typer.Option(help="Folder to write.")],
    bits: Annotated[int, typer.Option(metavar="8|4", help="What every layer gets that bears it.")],
    data: Data = None,
    max_perplexity_increase: Annotated[
        float | None,
        typer.Option(
            help="Budget, relative to the model as it was; 0.01 with 8 bits and 0.05 with 4 when left out."
        ),
    ] = None,
    tokens: Tokens = 8192,
    deciding_tokens: Annotated[
        int,
        typer.Option(help="Tokens to decide on, of all data sets together, before those measured."),
    ] = 1024,
    context_length: ContextLength = 1024,
    precision: Precision = "auto",
    device: Device = "auto",
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a copy in 8 or 4 bits, but for the layers that a text shows not to bear it.

    A few matrices of a trained model do not bear rounding. The beginning of each data set decides
    which, within a budget of perplexity; the tokens after it say what that costs. transformers loads the
    copy where prosparse is imported.

    Example: `prosparse quantize runs/sparse --bits 4 --data prose=valid.jsonl --out runs/int4`
    """
    import prosparse as ps
    from prosparse.reporting.summary import headline

    record = ps.quantize(
        model,
        dict(parse_data(data)),
        out=out,
        bits=bits,
        max_perplexity_increase=max_perplexity_increase,
        tokens=tokens,
        deciding_tokens=deciding_tokens,
        context_length=context_length,
        precision=precision,
        device=device,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    page = ps.report(out)
    print(headline(record))
    print(f"Wrote {out} (which layers, and what each costs: {page})")
