# SPDX-License-Identifier: Apache-2.0
"""`prosparse export`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosparse.cli.options import (
    Data,
    Device,
    Model,
    Overwrite,
    Tokens,
    TrustRemoteCode,
    parse_data,
)


def export(
    model: Model,
    to: Annotated[str, typer.Option(metavar="powerinfer|gguf", help="For which engine.")],
    out: Annotated[str, typer.Option(help="Folder to write.")],
    predictors: Annotated[
        str | None,
        typer.Option(
            help="Of powerinfer: folder of a fit with `--zero-cuts`, or of `model_N.pt` files."
        ),
    ] = None,
    type: Annotated[
        str, typer.Option(metavar="f16|q4_0|f32", help="Of the FFN's matrices.")
    ] = "f16",
    unshifted: Annotated[
        bool, typer.Option("--unshifted", help="Of powerinfer: leave out FATReLU's threshold.")
    ] = False,
    only_prosparse: Annotated[
        bool,
        typer.Option(
            "--only-prosparse", help="Of gguf: an activation that llama.cpp has not, for us alone."
        ),
    ] = False,
    data: Data = None,
    tokens: Tokens = 32768,
    vram_gb: Annotated[
        float | None,
        typer.Option(help="Of powerinfer, with --data: GB of a GPU to fill with neurons."),
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a model as a file that PowerInfer or llama.cpp runs, or say why it cannot be.

    Example: `prosparse export runs/sparse --to powerinfer --predictors runs/predictors --out runs/pwri`
    """
    import prosparse as ps
    from prosparse.reporting.summary import headline

    record = ps.export(
        model,
        to=to,
        out=out,
        predictors=predictors,
        type=type,
        unshifted=unshifted,
        only_prosparse=only_prosparse,
        data=dict(parse_data(data)),
        tokens=tokens,
        vram_gb=vram_gb,
        device=device,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    page = ps.report(out)
    print(headline(record))
    print(f"Wrote {out}/{record.file} (what is in it: {page})")
