# SPDX-License-Identifier: Apache-2.0
"""`prosparse plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosparse.cli.options import Overwrite


def plan(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Output folders of train or sparsify.")
    ],
    sparsity: Annotated[float, typer.Option(help="Wanted at the end of training, in (0, 1).")],
    out: Annotated[
        str | None, typer.Option(help="Folder for `record.json` and the report.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Tell the last-stage lambda for a wanted sparsity, from finished runs of the same model.

    Fits the paper's law (Figure 3), sparsity = 100 - exp(a lambda^alpha + b), to three runs or more.

    Example: `prosparse plan runs/a runs/b runs/c runs/d --sparsity 0.89 --out runs/plan`
    """
    import prosparse as ps
    from prosparse.reporting.law_sections import law_grid
    from prosparse.reporting.summary import headline
    from prosparse.reporting.tables import markdown_table

    record = ps.plan(runs, sparsity=sparsity, out=out, overwrite=overwrite)
    print(markdown_table(law_grid(record)))
    print(headline(record))
    if out is not None:
        print(f"Wrote {ps.report(out)}")
