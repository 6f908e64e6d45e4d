# SPDX-License-Identifier: Apache-2.0
"""`prosparse train`."""

from __future__ import annotations

from prosparse.cli.options import Device, Overwrite, RecipeFile, Resume, Set, TrustRemoteCode


def train(
    recipe: RecipeFile,
    set_: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Steps 1 and 2: put ReLU in, then train under an L1 penalty that rises in smooth stages.

    Prints one row for each stage as it ends. Ctrl-C saves a checkpoint; `--resume` goes on there.

    Example: `prosparse train recipes/demo.yaml --set out=runs/demo --set training.seed=1`
    """
    import prosparse as ps
    from prosparse.cli.live import LiveTable
    from prosparse.training.recipe import load_recipe

    plan = load_recipe(recipe, set_ or [])
    record = ps.train(
        plan,
        resume=resume,
        overwrite=overwrite,
        device=device,
        trust_remote_code=trust_remote_code,
        on_milestone=LiveTable(list(plan.measure.data) if plan.measure else []),
    )
    print(
        f"{record.num_tokens:,} tokens in {record.seconds:,.0f} s "
        f"({record.tokens_per_second:,.0f} tokens/s, {record.precision}); wrote {plan.out}"
    )
    if plan.threshold is not None:
        print("The recipe's threshold section was not applied: prosparse sparsify does that.")
