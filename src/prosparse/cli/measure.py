# SPDX-License-Identifier: Apache-2.0
"""`prosparse measure`."""

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
)


def measure(
    model: Model,
    data: Data = None,
    tokens: Tokens = 32768,
    context_length: ContextLength = 1024,
    detail: Annotated[
        bool,
        typer.Option(
            "--detail",
            help="Distributions too: by neuron, place, token, groups of tokens, magnitude.",
        ),
    ] = False,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="fat|topk|cett|cett-ppl|compare",
            help="Switch weak neurons off; `compare` measures several settings of the first three.",
        ),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Of `fat`: |act(gate)| below it is weak.")
    ] = None,
    k: Annotated[
        float | None, typer.Option(help="Of `topk`: share of neurons that each token keeps.")
    ] = None,
    cett: Annotated[
        float | None, typer.Option(help="Of `cett`: relative output error of each layer.")
    ] = None,
    max_perplexity_increase: Annotated[
        float, typer.Option(help="Of `cett-ppl`: the budget, 0.01 is one percent.")
    ] = 0.01,
    out: Annotated[str | None, typer.Option(help="Folder for `record.json`.")] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure activation sparsity (average, by layer, by data set) and perplexity.

    Sparsity is the share of exact zeros in the input of `down_proj`, averaged over layers.
    Perplexity comes with its standard error over context windows. A model without zeros is measured
    with a metric that says which neurons are weak: how sparse is it already? Without `--out` the
    record is printed only.

    Example: `prosparse measure runs/demo/model --data prose=valid.jsonl --tokens 16384`
    """
    import prosparse as ps
    from prosparse.reporting.activity_sections import union_grid
    from prosparse.reporting.metric_sections import point_grid
    from prosparse.reporting.summary import headline
    from prosparse.reporting.tables import layer_bars, markdown_measure, markdown_table

    record = ps.measure(
        model,
        dict(parse_data(data)),
        tokens=tokens,
        context_length=context_length,
        detail=detail,
        metric=metric,
        epsilon=epsilon,
        k=k,
        cett=cett,
        max_perplexity_increase=max_perplexity_increase,
        precision=precision,
        device=device,
        out=out,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    print(markdown_measure(record))
    print(layer_bars(record.layer_sparsity))
    if record.points:
        chosen = None if record.metric is None else record.metric.point
        print(f"\n{markdown_table(point_grid(record.points, chosen))}")
    if detail:
        named = tuple((m.data, m.activity) for m in record.data if m.activity is not None)
        print(
            f"\nNeurons that several tokens need together:\n\n{markdown_table(union_grid(named))}"
        )
    if record.metric is not None:
        print(f"\n{headline(record)}")
    if out is not None:
        print(f"Wrote {out}")
