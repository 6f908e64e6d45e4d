# SPDX-License-Identifier: Apache-2.0
"""Did sparsity cost quality? Two models on the same benchmark items, and how sure the difference is.

    python examples/14_did_it_cost_quality.py DENSE SPARSE ITEMS OUT

ITEMS is a folder of local benchmark items (docs/evaluation.md has the layout). The tasks are those of
commonsense reasoning in Table 1 of ProSparse, a small fixed sample of each. It needs lm-eval:
`pip install "prosparse[eval]"`. Stopped half-way it goes on where it was.
"""

import sys

import prosparse as ps

TASKS = ["piqa", "siqa", "hellaswag", "winogrande", "copa"]


def main(dense: str, sparse: str, items: str, out: str) -> None:
    record = ps.evaluate(
        [dense, sparse], suite="quick", tasks=TASKS, data_dir=items, out=out,
        average_what_is_there=True, overwrite=True, progress=False,
    )  # fmt: skip
    for scores in record.models:
        told = ", ".join(
            f"{task.title} {task.score:.1%} ± {task.stderr:.1%}" for task in scores.tasks
        )
        print(f"{scores.name}, {scores.sparsity:.1%} of its FFN activations zero: {told}")
    for found in record.differences:
        print(
            f"{found.name}: {100 * found.difference:+.1f} points on {found.num_items} items, "
            f"95 % from {100 * found.low:+.1f} to {100 * found.high:+.1f}"
        )
    print(f"\nWrote {ps.report(out)}, and every answer under {out}/items.")
    print("The difference on the same items is what to read, not how far the two scores are apart.")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
