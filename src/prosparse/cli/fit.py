# SPDX-License-Identifier: Apache-2.0
"""`prosparse fit`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosparse.cli.options import Overwrite, parse_numbers


def fit(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Output folders of train or sparsify, or CSV tables."
        ),
    ],
    law: Annotated[
        str, typer.Option(metavar="data-relu|data-silu|width-depth|lambda", help="The law.")
    ] = "data-relu",
    stage: Annotated[
        str | None, typer.Option(help="Laws of data: the stage to take, e.g. `stage 0`.")
    ] = None,
    least: Annotated[
        float | None,
        typer.Option("--min", help="Leave out points below this x (data: billions of tokens)."),
    ] = None,
    most: Annotated[
        float | None, typer.Option("--max", help="Leave out points above this x.")
    ] = None,
    at: Annotated[
        str, typer.Option(metavar="X,X,...", help="Where to tell the activation ratio by the law.")
    ] = "",
    confidence: Annotated[float, typer.Option(help="Of all intervals, in (0, 1).")] = 0.95,
    out: Annotated[
        str | None, typer.Option(help="Folder for `record.json` and the report.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit a law of activation sparsity to runs, with confidence intervals and residuals.

    The laws of data (one curve for each run): A(D) = exp(-c D^alpha + b) + A0 for ReLU, -c / D^alpha + A0
    for SiLU. Through all runs: a line of width over depth, and the law of the last lambda (Figure 3).

    Example: `prosparse fit runs/a --stage "stage 0" --at 1,10 --out runs/laws`
    """
    import prosparse as ps
    from prosparse.reporting.law_fit_sections import parameter_grid, prediction_grid
    from prosparse.reporting.summary import headline
    from prosparse.reporting.tables import markdown_table

    record = ps.fit(
        runs, law=law, stage=stage, least=least, most=most, at=parse_numbers(at, "--at"),
        confidence=confidence, out=out, overwrite=overwrite,
    )  # fmt: skip
    for found in record.fits:
        print(f"{found.name}: {found.formula}, {found.num_points} points of {found.source}")
        print(markdown_table(parameter_grid(record, found)))
        if found.predictions:
            print(markdown_table(prediction_grid(record, found)))
        for note in found.notes:
            print(note)
    print(headline(record))
    if out is not None:
        print(f"Wrote {ps.report(out)}")
