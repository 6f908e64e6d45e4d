# SPDX-License-Identifier: Apache-2.0
"""`prosparse relufy`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosparse.cli.options import Model, Overwrite, TrustRemoteCode


def relufy(
    model: Model,
    out: Annotated[str, typer.Option(help="Folder to write.")],
    activation: Annotated[
        str,
        typer.Option(
            metavar="relu|shifted-relu|fatrelu|drelu|thresholded-silu",
            help="What replaces Swish or GELU.",
        ),
    ] = "relu",
    bias: Annotated[float | None, typer.Option(help="b of shifted ReLU, max(x - b, 0).")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="t of FATReLU: x where x >= t, else 0; or of thresholded SiLU."),
    ] = None,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Step 1: put ReLU into every FFN of a checkpoint; its weights stay as they are.

    The result runs at once but writes nonsense until it is trained: see `prosparse train`.

    Example: `prosparse relufy HuggingFaceTB/SmolLM2-135M --out smollm2-relu`
    """
    import prosparse as ps

    record = ps.relufy(
        model,
        out=out,
        activation=activation,
        bias=bias,
        threshold=threshold,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    param = "" if record.activation.param is None else f" {record.activation.param:g}"
    print(
        f"{record.replaced.name} -> {record.activation.name}{param} in {record.num_layers} FFNs "
        f"({record.d_model} -> {record.d_ff}); wrote {out}"
    )
