# SPDX-License-Identifier: Apache-2.0
"""`prosparse frontier`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosparse.cli.options import Overwrite


def frontier(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Output folders of train or sparsify.")
    ],
    relative_to: Annotated[
        str, typer.Option(help="Output folder of the control: the dense model trained on alike.")
    ],
    out: Annotated[
        str | None, typer.Option(help="Folder for `record.json` and the report.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Hold finished runs against a dense control: sparsity, and perplexity over the control's.

    Reads records alone. With `--out` writes the table and the plot as a report.

    Example: `prosparse frontier runs/relu runs/prosparse --relative-to runs/dense --out runs/frontier`
    """
    import prosparse as ps
    from prosparse.reporting.frontier_sections import frontier_grid
    from prosparse.reporting.summary import headline
    from prosparse.reporting.tables import markdown_table

    record = ps.frontier(runs, relative_to=relative_to, out=out, overwrite=overwrite)
    print(markdown_table(frontier_grid(record)))
    print(headline(record))
    if out is not None:
        print(f"Wrote {ps.report(out)}")
