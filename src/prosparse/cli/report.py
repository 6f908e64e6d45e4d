# SPDX-License-Identifier: Apache-2.0
"""`prosparse report`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosparse.cli.options import Overwrite


def report(
    folders: Annotated[
        list[str], typer.Argument(metavar="DIR...", help="Output folders of any verb.")
    ],
    out: Annotated[
        str | None, typer.Option(help="Folder for the report; needed with several runs.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write `report.html` (self-contained), `report.md` and `report.json` from the records of runs.

    One run: the verdict in words, sparsity and loss over steps with lambda and the stage borders,
    the sparsity of each layer before and after threshold shifting, thresholds, data sets, and how
    it was run. Several: their tables and curves side by side, their differences in words, and
    whatever was not set alike.

    Example: `prosparse report runs/demo`

    Example: `prosparse report runs/a runs/b --out runs/a-and-b`
    """
    import prosparse as ps

    print(f"Wrote {ps.report(*folders, out=out, overwrite=overwrite)}")
