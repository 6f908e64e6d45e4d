# SPDX-License-Identifier: Apache-2.0
"""Fit activation predictors, and say how well they do."""

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
    Resume,
    Tokens,
    TrustRemoteCode,
    parse_data,
)


def fit(
    model: Model,
    out: Annotated[str, typer.Option(help="Folder to write.")],
    data: Data = None,
    rows: Annotated[int, typer.Option(help="Tokens to collect, of all data sets.")] = 400_000,
    reads: Annotated[
        str,
        typer.Option(
            "--input",
            metavar="ffn-input|residual",
            help="After the norm, or before it (PowerInfer).",
        ),
    ] = "ffn-input",
    rank: Annotated[
        int | None, typer.Option(help="Of all layers; left out: each layer's by measured time.")
    ] = None,
    cut: Annotated[
        float | None, typer.Option(help="Logits below are inactive; left out: by measured time.")
    ] = None,
    recall: Annotated[
        float | None, typer.Option(help="In place of a cut: the recall that each layer keeps.")
    ] = None,
    max_missed: Annotated[
        float, typer.Option(help="Mean share of FFN outputs that a choice by time may miss.")
    ] = 0.03,
    zero_cuts: Annotated[
        bool,
        typer.Option("--zero-cuts", help="Fold the cuts into the weights, as PowerInfer needs."),
    ] = False,
    epochs: Annotated[int, typer.Option(help="At most; 0 keeps the SVD starts.")] = 20,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Rows of a training step.")] = 1024,
    context_length: ContextLength = 1024,
    precision: Precision = "auto",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of the order of rows.")] = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Fit a predictor of active neurons for every layer of a sparse model.

    Example: `prosparse predictor fit runs/sparse --data prose=train.jsonl --out runs/predictors`
    """
    import prosparse as ps
    from prosparse.reporting.summary import headline

    record = ps.fit_predictors(
        model,
        dict(parse_data(data)),
        out=out,
        rows=rows,
        reads=reads,
        rank=rank,
        cut=cut,
        recall=recall,
        max_missed=max_missed,
        zero_cuts=zero_cuts,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        context_length=context_length,
        precision=precision,
        device=device,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    page = ps.report(out)
    print(headline(record))
    print(f"Wrote {out} (layer by layer: {page})")


def evaluate(
    model: Model,
    predictors: Annotated[str, typer.Option(help="Folder of a fit, or of `model_N.pt` files.")],
    data: Data = None,
    cut: Annotated[
        float | None, typer.Option(help="In all layers, in place of the predictors' own.")
    ] = None,
    tokens: Tokens = 32768,
    context_length: ContextLength = 1024,
    out: Annotated[
        str | None, typer.Option(help="Folder for `record.json` and the report.")
    ] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure recall, predicted sparsity, missed output, and perplexity under the predictors.

    Example: `prosparse predictor eval runs/sparse --predictors runs/predictors --data prose=valid.jsonl`
    """
    import prosparse as ps
    from prosparse.reporting.predictor_sections import eval_grid
    from prosparse.reporting.summary import headline
    from prosparse.reporting.tables import markdown_table

    record = ps.evaluate_predictors(
        model,
        predictors,
        dict(parse_data(data)),
        cut=cut,
        tokens=tokens,
        context_length=context_length,
        precision=precision,
        device=device,
        out=out,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    print(markdown_table(eval_grid(record)))
    print(f"\n{headline(record)}")
    if out is not None:
        print(f"Wrote {ps.report(out)}")
