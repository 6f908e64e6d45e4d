# SPDX-License-Identifier: Apache-2.0
"""`prosparse sparsify`."""

from __future__ import annotations

from prosparse.cli.options import Device, Overwrite, RecipeFile, Resume, Set, TrustRemoteCode


def sparsify(
    recipe: RecipeFile,
    set_: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """The whole line: relufy, train, shift the threshold, measure, write a sample and a report.

    Prints one table, row by row as the rows come true. Ctrl-C at any time; `--resume` goes on.

    Example: `prosparse sparsify recipes/demo.yaml --resume`
    """
    import prosparse as ps
    from prosparse.cli.live import LiveTable, LiveThresholds
    from prosparse.training.recipe_file import load_recipe

    plan = load_recipe(recipe, set_ or [])
    names = list(plan.measure.data) if plan.measure else []

    record = ps.sparsify(
        plan,
        resume=resume,
        overwrite=overwrite,
        device=device,
        trust_remote_code=trust_remote_code,
        on_milestone=LiveTable(names),
        on_candidate=LiveThresholds(names),
    )
    if record.sample is not None:
        print(f"\nThe sparse model writes:\n{record.sample.prompt}{record.sample.text}\n")
    out = plan.out
    print(f"Checkpoint  {out}/model\nRecord      {out}/record.json\nLog         {out}/log.jsonl")
    print(f"Report      {out}/report.html\nTook        {record.seconds / 60:.1f} min")
