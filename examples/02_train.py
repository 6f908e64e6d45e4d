# SPDX-License-Identifier: Apache-2.0
"""Steps 1 and 2: ReLUfy a dense model and train it under an L1 penalty that rises in stages.

    python examples/02_train.py MODEL TRAIN_TEXT HELD_OUT_TEXT OUT

The recipe is examples/02_train.yaml. A run that was interrupted goes on when it is started again.
"""

import sys
from pathlib import Path

import prosparse as ps

RECIPE = Path(__file__).with_suffix(".yaml")


def main(model: str, train_text: str, held_out_text: str, out: str) -> None:
    record = ps.train(
        RECIPE,
        overrides=[
            f"model={model}",
            f"out={out}",
            f"data.components.text.path={train_text}",
            f"measure.data.text.path={held_out_text}",
        ],
        resume=True,
    )
    for milestone in record.milestones:
        print(
            f"{milestone.label:16} step {milestone.step:3}   lambda {milestone.factor:4.1f}   "
            f"sparsity {milestone.sparsity:7.2%}   perplexity {milestone.data[0].perplexity:10.2f}"
        )
    last = record.stages[-1]
    print(f"\n{record.num_tokens:,} tokens; final lambda {last.end_factor:g}, which is")
    print(f"c = {last.end_coefficient:.3g} per token of the L1 norm summed over layers.")
    print(
        "Expect stage 0 to mend most of what the swap broke, and sparsity to rise with lambda from"
    )
    print(
        "then on, at a cost in perplexity that grows with lambda and shrinks with training tokens."
    )
    print(f"Every step is in {out}/log.jsonl; to draw it: prosparse report {out}")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
