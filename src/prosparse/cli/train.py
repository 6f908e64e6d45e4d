# SPDX-License-Identifier: Apache-2.0
"""`prosparse train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prosparse.cli.options import Device, Overwrite, RecipeFile, Resume, Set, TrustRemoteCode
from prosparse.errors import UserError

if TYPE_CHECKING:
    from prosparse.training.dry_run import DryRun

WIDTHS = (12, 8, 8, 9, 16, 24)
TITLES = ("stage", "steps", "until", "tokens", "lambda", "c")


def train(
    recipe: RecipeFile,
    set_: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say what the recipe asks for; loads and writes nothing."
        ),
    ] = False,
    gpus: Annotated[int, typer.Option(help="With --dry-run: GPUs that will take part.")] = 1,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="With --dry-run: throughput of one GPU, to tell the time.")
    ] = None,
) -> None:
    """Steps 1 and 2: put ReLU in, then train under an L1 penalty that rises in smooth stages.

    Prints one row for each stage as it ends. Ctrl-C saves a checkpoint; `--resume` goes on there.
    With `--dry-run` prints the stages in steps, tokens, lambda and c, the memory and the time.

    Example: `prosparse train recipes/demo.yaml --set out=runs/demo --set training.seed=1`
    """
    from accelerate import PartialState

    import prosparse as ps
    from prosparse.cli.live import LiveTable
    from prosparse.training.recipe_file import load_recipe

    plan = load_recipe(recipe, set_ or [])
    if dry_run:
        from prosparse.training.dry_run import dry_run as work_out

        _tell(
            work_out(
                plan,
                num_devices=gpus,
                tokens_per_second=tokens_per_second,
                trust_remote_code=trust_remote_code,
            )
        )
        return
    if gpus != 1 or tokens_per_second is not None:
        raise UserError("--gpus and --tokens-per-second go with --dry-run; torchrun sets the GPUs.")
    record = ps.train(
        plan,
        resume=resume,
        overwrite=overwrite,
        device=device,
        trust_remote_code=trust_remote_code,
        on_milestone=LiveTable(list(plan.measure.data) if plan.measure else []),
    )
    if not PartialState().is_main_process:
        return
    print(
        f"{record.num_tokens:,} tokens in {record.seconds:,.0f} s "
        f"({record.tokens_per_second:,.0f} tokens/s, {record.precision}); wrote {plan.out}"
    )
    if plan.threshold is not None:
        print("The recipe's threshold section was not applied: prosparse sparsify does that.")


def _tell(plan: DryRun) -> None:
    from prosparse.reporting.numerals import compact_count, compact_number, duration, percent
    from prosparse.reporting.tables import PlainTable

    def rise(start: float, end: float) -> str:
        number = compact_number(end)
        return number if start == end else f"{compact_number(start)} to {number}"

    print(
        f"{plan.model}: {compact_count(plan.num_parameters)} parameters, {plan.num_layers} layers, "
        f"d_model {plan.d_model:,}, d_ff {plan.d_ff:,}"
    )
    if plan.num_trained != plan.num_parameters:
        print(f"Trained: {compact_count(plan.num_trained)} parameters of adapters")
    table = PlainTable(TITLES, WIDTHS)
    print(table.header())
    for stage in plan.stages:
        lambdas = rise(stage.start_factor, stage.factor)
        coefficients = rise(stage.start_coefficient, stage.coefficient)
        tokens = compact_count(stage.num_tokens)
        cells = (
            stage.name,
            f"{stage.num_steps:,}",
            f"{stage.until:,}",
            tokens,
            lambdas,
            coefficients,
        )
        print(table.row(cells))
    if plan.target_sparsity is not None:
        print(
            f"The last stage steers to {percent(plan.target_sparsity, 1)} sparsity; its lambda is the "
            "most it may be"
        )
    devices = f"{plan.num_devices} GPU{'s' if plan.num_devices > 1 else ''}"
    print(
        f"{plan.tokens_per_step:,} tokens a step on {devices}; "
        f"{compact_count(plan.num_tokens)} tokens in all"
    )
    print(
        f"On each GPU: {plan.state_bytes / 1e9:.1f} GB for weights, gradients and optimizer, "
        f"{plan.logit_bytes / 1e9:.1f} GB for logits; activations come on top"
    )
    if plan.load_bytes > plan.state_bytes:
        print(f"While the model is loaded, before it is sharded: {plan.load_bytes / 1e9:.1f} GB")
    print(
        f"On disk while it runs: {plan.checkpoint_bytes / 1e9:.1f} GB for checkpoints, at most "
        f"{plan.token_bytes / 1e9:.1f} GB for tokens of hub data sets"
    )
    if plan.seconds is not None:
        print(f"Time at that throughput: {duration(plan.seconds)}")
