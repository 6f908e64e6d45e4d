# SPDX-License-Identifier: Apache-2.0
"""`prosparse serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosparse.cli.options import Device, Model


def serve(
    model: Model,
    engine_arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- OPTION...]", help="After `--`: options of `vllm serve`."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="auto|vllm|transformers",
            help="auto: vLLM where it is installed and can serve this model.",
        ),
    ] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    max_tokens: Annotated[
        int,
        typer.Option(help="Steps of up to so many tokens skip inactive neurons; 1 to 16."),
    ] = 8,
    dtype: Annotated[
        str,
        typer.Option(metavar="auto|float32|bfloat16|float16", help="auto: the checkpoint's own."),
    ] = "auto",
    device: Device = "auto",
) -> None:
    """Serve a sparse model as OpenAI's clients ask for it, at http://HOST:PORT/v1.

    `/metrics` says how sparse it is on what it is asked, and what share of the FFN weights is skipped.

    Example: `prosparse serve runs/demo/model --port 8001`
    """
    import prosparse as ps

    ps.serve(
        model,
        engine=engine,
        host=host,
        port=port,
        max_tokens=max_tokens,
        dtype=dtype,
        device=device,
        engine_arguments=engine_arguments or [],
    )
