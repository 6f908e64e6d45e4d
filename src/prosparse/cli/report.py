# SPDX-License-Identifier: Apache-2.0
"""`prosparse report`."""

from __future__ import annotations

from typing import Annotated

import typer


def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of any verb.")],
) -> None:
    """Write `report.html` (self-contained) and `report.md` from the records of a run.

    Shows sparsity and loss over steps with lambda and the stage borders, the sparsity of each
    layer before and after threshold shifting, the threshold table, and the run's facts.

    Example: `prosparse report runs/demo`
    """
    import prosparse as ps

    print(f"Wrote {ps.report(folder)}")
