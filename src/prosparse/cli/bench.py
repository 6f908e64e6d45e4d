# SPDX-License-Identifier: Apache-2.0
"""Measure on this machine how fast sparse operators and decode are, and what training pays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prosparse.cli.options import Device, Overwrite, TrustRemoteCode, parse_numbers
from prosparse.errors import UserError

if TYPE_CHECKING:
    from prosparse.records.speed import NotRun

Out = Annotated[str | None, typer.Option(help="Folder for `record.json` and the report.")]
Dtype = Annotated[str, typer.Option(metavar="bfloat16|float16|float32", help="Of the weights.")]
Seed = Annotated[int, typer.Option(help="Seed of weights and inputs.")]
Quick = Annotated[bool, typer.Option("--quick", help="A first look: less of everything.")]
NoCompile = Annotated[
    bool, typer.Option("--no-compile", help="Leave out the baselines made by torch.compile.")
]

FAILED = 1


def ops(
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|DxF",
            help="llama2-7b, llama2-13b, minicpm-1b, smollm2-1.7b, smollm2-135m, or DxF; repeatable.",
        ),
    ] = None,
    sparsity: Annotated[
        str | None, typer.Option(help="Shares of inactive neurons, with commas between.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Tokens at once, 1 to 16, with commas between.")
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="random|clustered|FILE.npy",
            help="Active neurons; a file holds real activations [tokens, d_ff]; repeatable.",
        ),
    ] = None,
    dtype: Dtype = "bfloat16",
    no_compile: NoCompile = False,
    quick: Quick = False,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Time the sparse operators, step by step and as a whole FFN, against dense and the hardware.

    Every result is checked against float32 before it gets a time; a wrong one gets none, and the
    command ends with code 1.

    Example: `prosparse bench ops --shape llama2-7b --shape smollm2-135m --out runs/ops`
    """
    import prosparse as ps
    from prosparse.cli.live import LiveOps, write
    from prosparse.reporting.speed_grids import limit_grid, limit_text
    from prosparse.reporting.speed_summary import headline
    from prosparse.reporting.tables import markdown_table

    record = ps.bench_ops(
        shape or ["llama2-7b"],
        dtype=dtype,
        sparsity=None if sparsity is None else parse_numbers(sparsity, "--sparsity"),
        tokens=None if tokens is None else _parse_counts(tokens),
        masks=mask,
        compiled=not no_compile,
        quick=quick,
        device=device,
        seed=seed,
        out=out,
        overwrite=overwrite,
        on_row=LiveOps(),
    )
    write(f"\n{markdown_table(limit_grid(record))}\n")
    write(f"Limit: {limit_text(record.limit)}\n{headline(record)}")
    _finish(out, record.not_run, any(row.is_wrong for row in record.rows))


def decode(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Folder, `.gguf` file or hub id; left out: random weights."
        ),
    ] = None,
    shape: Annotated[
        str, typer.Option(help="Of random weights: the names of `bench ops`.")
    ] = "llama2-7b",
    layers: Annotated[
        int | None, typer.Option(help="Of random weights: fewer layers than the shape has.")
    ] = None,
    sparsity: Annotated[
        float, typer.Option(help="Of random weights: share of inactive neurons to set.")
    ] = 0.893,
    prompt: Annotated[str | None, typer.Option(help="Of a MODEL: text to go on from.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Of a MODEL: documents to take a prompt of 64 tokens from."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="New tokens to decode and compare.")] = 128,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="bfloat16|float16|float32",
            help="Of the weights; left out: the checkpoint's own, bfloat16 for random ones.",
        ),
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(metavar="4|8", help="Quantize weights first, for dense and sparse alike."),
    ] = None,
    predictors: Annotated[
        str | None, typer.Option(help="Of a MODEL: folder of a fit, to decode by as well.")
    ] = None,
    no_compile: NoCompile = False,
    quick: Quick = False,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Say what sparsity buys a model's decode on this machine, and why.

    Before anything gets a time, its greedy tokens are compared with those of the dense model, and
    the logits and zeros of the sparse decode with the dense ones on the same text.

    Example: `prosparse bench decode runs/demo/model --prompt "The for statement is used to"`
    """
    import prosparse as ps
    from prosparse.cli.live import LiveDecode, write
    from prosparse.reporting.speed_exactness import exactness_text
    from prosparse.reporting.speed_grids import predicted_grid
    from prosparse.reporting.speed_summary import headline
    from prosparse.reporting.tables import markdown_table

    record = ps.bench_decode(
        model,
        shape=shape,
        num_layers=layers,
        sparsity=sparsity,
        prompt=prompt,
        data=data,
        tokens=tokens,
        dtype=dtype,
        weight_bits=weight_bits,
        predictors=predictors,
        compiled=not no_compile,
        quick=quick,
        device=device,
        seed=seed,
        out=out,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        on_row=LiveDecode(),
    )
    write(f"\n{record.breakdown}\n\n{headline(record)}\n{exactness_text(record)}")
    if record.predicted is not None:
        write(f"\n{markdown_table(predicted_grid(record))}")
    _finish(out, record.not_run, any(row.is_wrong for row in record.rows))


def train(
    shape: Annotated[
        str,
        typer.Option(
            metavar="NAME|DxF",
            help="llama2-7b, llama2-13b, minicpm-1b, smollm2-1.7b, smollm2-135m, or DxF.",
        ),
    ] = "llama2-7b",
    tokens: Annotated[int, typer.Option(help="In one forward and backward pass.")] = 16384,
    dtype: Dtype = "bfloat16",
    no_compile: NoCompile = False,
    quick: Quick = False,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Say what the L1 norm and the counts cost in training: one FFN, forward and backward.

    Every output and gradient is checked against float32 before it gets a time; a wrong one gets none,
    and the command ends with code 1.

    Example: `prosparse bench train --shape llama2-7b --tokens 16384 --out runs/train-cost`
    """
    import prosparse as ps
    from prosparse.cli.live import LiveTraining, write
    from prosparse.reporting.training_speed import headline

    record = ps.bench_train(
        shape,
        tokens=tokens,
        dtype=dtype,
        compiled=not no_compile,
        quick=quick,
        device=device,
        seed=seed,
        out=out,
        overwrite=overwrite,
        on_row=LiveTraining(),
    )
    write(headline(record))
    _finish(out, record.not_run, any(row.is_wrong for row in record.rows))


def train_step(
    shape: Annotated[
        str, typer.Option(help="llama2-7b, llama2-13b, minicpm-1b, smollm2-1.7b or smollm2-135m.")
    ] = "llama2-7b",
    layers: Annotated[int | None, typer.Option(help="Fewer layers than the shape has.")] = None,
    sharding: Annotated[str, typer.Option(metavar="none|full", help="As in a recipe.")] = "full",
    context_length: Annotated[int, typer.Option(help="Tokens of a sample.")] = 4096,
    micro_batch_size: Annotated[int, typer.Option(help="Samples of one forward pass.")] = 1,
    accumulation: Annotated[int, typer.Option(help="Micro-batches of a step, on each GPU.")] = 4,
    steps: Annotated[int, typer.Option(help="To time, after five that are not.")] = 20,
    no_checkpointing: Annotated[
        bool, typer.Option("--no-checkpointing", help="Keep activations for the backward pass.")
    ] = False,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Run without compiling.")
    ] = False,
    precision: Annotated[str, typer.Option(metavar="auto|float32|bfloat16")] = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Time whole training steps of a model of random weights: tokens/s of each GPU, and MFU.

    Under torchrun on several GPUs.

    Example: `torchrun --nproc-per-node 2 --no-python prosparse bench train-step --out runs/step`
    """
    import prosparse as ps
    from prosparse.cli.live import write
    from prosparse.reporting.training_step import headline

    record = ps.bench_train_step(
        shape,
        num_layers=layers,
        sharding=sharding,
        context_length=context_length,
        micro_batch_size=micro_batch_size,
        accumulation=accumulation,
        steps=steps,
        checkpointing=not no_checkpointing,
        compiled=not no_compile,
        precision=precision,
        seed=seed,
        device=device,
        out=out,
        overwrite=overwrite,
    )
    if record is not None:  # of the main process
        write(headline(record))
        _finish(out, (), is_wrong=False)


def _parse_counts(text: str) -> list[int]:
    numbers = parse_numbers(text, "--tokens")
    if any(number != int(number) for number in numbers):
        raise UserError(f"--tokens takes whole numbers with commas between; found '{text}'.")
    return [int(number) for number in numbers]


def _finish(out: str | None, not_run: tuple[NotRun, ...], is_wrong: bool) -> None:
    """Say what did not run and where the report is; end with code 1 if something went wrong."""
    import prosparse as ps
    from prosparse.cli.live import write

    for item in not_run:
        write(f"Not run: {item.contender}: {item.reason}.")
    if out is not None:
        write(f"Wrote {ps.report(out)}")
    if is_wrong:
        write("A result was wrong: it has no time.")
    if is_wrong or any(item.is_failure for item in not_run):
        raise typer.Exit(FAILED)
