# SPDX-License-Identifier: Apache-2.0
"""`prosparse threshold`."""

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
    parse_numbers,
)


def threshold(
    model: Model,
    out: Annotated[str, typer.Option(help="Folder to write.")],
    data: Data = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="fixed|per-layer|cett|all",
            help="One threshold; one for each layer by what layers cost, or by equal output error; "
            "all: each at the edge of the budget, and the sparsest is kept.",
        ),
    ] = "fixed",
    candidates: Annotated[
        str, typer.Option(help="Of `fixed`: thresholds to try, with commas between.")
    ] = "0.005,0.01,0.02,0.03",
    max_perplexity_increase: Annotated[
        float, typer.Option(help="Budget, relative to the unshifted model: 0.01 is one percent.")
    ] = 0.01,
    check_data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Data to check the choice on; left out, the text that follows in --data; repeatable.",
        ),
    ] = None,
    tokens: Tokens = 32768,
    context_length: ContextLength = 1024,
    precision: Precision = "auto",
    device: Device = "auto",
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Step 3: shift the threshold of ReLU up as far as a quality budget allows.

    Every candidate runs on the same text as the unshifted model; the largest one within the budget
    is applied, and checked on text that it was not chosen by. The trade-off is printed, and plotted in
    the output folder's `report.html`.

    Example: `prosparse threshold runs/demo --data prose=valid.jsonl --out runs/demo-shifted`
    """
    import prosparse as ps
    from prosparse.cli.live import LiveThresholds
    from prosparse.reporting.threshold_sections import threshold_outcome

    sets = parse_data(data)
    record = ps.threshold(
        model,
        dict(sets),
        out=out,
        method=method,
        candidates=parse_numbers(candidates, "--candidates"),
        max_perplexity_increase=max_perplexity_increase,
        check_data=dict(parse_data(check_data, "--check-data")),
        tokens=tokens,
        context_length=context_length,
        precision=precision,
        device=device,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        on_candidate=LiveThresholds(list(sets)),
    )
    page = ps.report(out)
    for sentence in threshold_outcome(record):
        print(sentence)
    print(f"Wrote {out} (trade-off: {page})")
