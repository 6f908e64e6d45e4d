# SPDX-License-Identifier: Apache-2.0
"""`prosparse evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosparse.cli.options import Device, Overwrite, Precision, TrustRemoteCode


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Local folders, `.gguf` files or hub ids."),
    ],
    suite: Annotated[
        str,
        typer.Option(
            metavar="paper|quick", help="All items, or a fixed small sample of each task."
        ),
    ] = "paper",
    tasks: Annotated[
        str | None, typer.Option(help="Only these, with commas between: `piqa,copa`.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder of local items; left out: from the hub.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="dense|sparse|predicted", help="How models run; repeatable, to compare."
        ),
    ] = None,
    predictors: Annotated[
        str | None, typer.Option(help="Of predicted: folder of `prosparse predictor fit`.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Items at once; with 1 no item's numbers depend on another's.")
    ] = 1,
    generation_batch_size: Annotated[
        int | None,
        typer.Option(help="The same where the model writes; left out: as `--batch-size`."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send prompts through the chat template.")
    ] = False,
    allow_code_execution: Annotated[
        bool,
        typer.Option(
            "--allow-code-execution",
            help="Run code that the model wrote (HumanEval, MBPP), confined.",
        ),
    ] = False,
    average_what_is_there: Annotated[
        bool,
        typer.Option("--average-what-is-there", help="Average although tasks are missing."),
    ] = False,
    precision: Precision = "auto",
    device: Device = "auto",
    cache: Annotated[
        str | None,
        typer.Option(help="Folder of answers so far; left out: in your cache folder."),
    ] = None,
    from_cache: Annotated[
        bool,
        typer.Option(
            "--from-cache",
            help="Ask nothing: take the cache's answers, whatever machine gave them.",
        ),
    ] = False,
    card: Annotated[
        bool, typer.Option("--card", help="Write the scores into each model's README.")
    ] = False,
    out: Annotated[
        str | None, typer.Option(help="Folder for `record.json`, every answer and the report.")
    ] = None,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Score models on the paper's benchmarks: did sparsity cost quality?

    Tables 1 and 3 of ProSparse, on lm-evaluation-harness. Several models are held against the first,
    item by item. An interrupted evaluation goes on where it was when it is started again.

    Example: `prosparse evaluate dense runs/demo/model --suite quick --data-dir eval --out runs/scores`
    """
    import prosparse as ps
    from prosparse.cli.live import LiveScores, write
    from prosparse.reporting.evaluation_grids import column_grid, difference_grid
    from prosparse.reporting.evaluation_sections import headline, missing_texts
    from prosparse.reporting.tables import markdown_table

    record = ps.evaluate(
        models,
        suite=suite,
        tasks=None if tasks is None else [name.strip() for name in tasks.split(",")],
        data_dir=data_dir,
        backend=backend or ["dense"],
        predictors=predictors,
        batch_size=batch_size,
        generation_batch_size=generation_batch_size,
        chat=chat,
        allow_code_execution=allow_code_execution,
        average_what_is_there=average_what_is_there,
        precision=precision,
        device=device,
        cache=cache,
        from_cache=from_cache,
        card=card,
        out=out,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        on_score=LiveScores(),
    )
    write(f"\n{markdown_table(column_grid(record))}\n")
    if record.differences:
        write(f"{markdown_table(difference_grid(record))}\n")
    for missing in missing_texts(record):
        write(missing)
    write(headline(record))
    if out is not None:
        write(f"Wrote {ps.report(out)}")
